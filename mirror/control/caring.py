"""Operations that change the cache at once: ``pin``, ``unpin``, ``rm``, ``gc``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mirror.control.operations import Arguments, Document, Report
    from mirror.engine.care import Care
    from mirror.oci.image_name import ImageName, ImageNames

UNUSED_SECONDS: Final = 3600.0
"""How long nobody may have used what ``gc`` removes, where the caller does not say."""


class Caring:
    """Reads arguments, and has the engine do what they ask for."""

    def __init__(self, care: Care, names: ImageNames) -> None:
        """Join the parts."""
        self._care = care
        self._names = names

    async def pin(self, arguments: Arguments, _report: Report) -> Document:
        """Keep an image, whatever its last use."""
        name = self._image(arguments)
        digest = await self._care.pin(name)
        return {"image": str(name), "digest": str(digest)}

    async def unpin(self, arguments: Arguments, _report: Report) -> Document:
        """Let an image go again when its time comes."""
        name = self._image(arguments)
        await self._care.unpin(name)
        return {"image": str(name)}

    async def remove(self, arguments: Arguments, _report: Report) -> Document:
        """Take an image out, or with ``all_tags`` all of its repository."""
        is_whole = arguments.flag("all_tags")
        name = self._names.parse(arguments.text("image"))
        removal = await self._care.remove(name, whole=is_whole)
        return {
            "image": str(name.repository if is_whole else name.or_latest),
            "tags": sorted({str(tag) for _, tag in removal.tags}),
            "removed": [str(digest) for digest in removal.digests],
            "freed_bytes": removal.size_bytes,
        }

    async def collect(self, arguments: Arguments, _report: Report) -> Document:
        """Remove what nothing needs."""
        unused_seconds = arguments.number("older_than_seconds", UNUSED_SECONDS)
        cleared = await self._care.collect(unused_seconds=unused_seconds)
        return {"files": cleared.files, "freed_bytes": cleared.size_bytes}

    def _image(self, arguments: Arguments) -> ImageName:
        return self._names.parse(arguments.text("image")).or_latest
