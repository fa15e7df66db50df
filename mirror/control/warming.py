"""The operation ``warm``: it tells of blobs on their way, and at the end of the images that were fetched or failed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from mirror.oci.image_name import ImageName
from mirror.oci.platforms import Platform

if TYPE_CHECKING:
    from mirror.control.operations import Arguments, Document, Report
    from mirror.engine.warm import Warmed, Warming
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.image_name import ImageNames

ACCEPTS: Final = ("images", "platforms")
_TOLD_EVERY_SECONDS: Final = 0.2


class WarmOperation:
    """Fetches images into the cache when it is asked to."""

    def __init__(self, warming: Warming, names: ImageNames) -> None:
        """Join the parts."""
        self._warming = warming
        self._names = names

    async def run(self, arguments: Arguments, report: Report) -> Document:
        """Fetch ``images``, of ``platforms`` or of every one.

        Raises:
            InvalidRequest: one of them cannot be read.
        """
        names = [self._names.parse(text) for text in arguments.texts("images")]
        platforms = [Platform.parse(text) for text in arguments.texts("platforms")]
        images = [ImageName(name.repository, name.reference_or_latest) for name in names]
        news = _News(report)
        async with asyncio.TaskGroup() as group:
            group.create_task(news.tell())
            warmed = await self._warming.warm(images, platforms, news)
            news.over.set()
        return {
            "images": [_describe(one) for one in warmed if one.error is None],
            "failed": [{"image": str(one.image), "error": str(one.error)} for one in warmed if one.error is not None],
        }


class _News:
    """What has changed since it was last told: one writer, at a pace that people can follow."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.over = asyncio.Event()
        self._facts: dict[tuple[str, str], Document] = {}

    def blob_moved(self, image: ImageName, blob: Descriptor, done_bytes: int) -> None:
        self._facts[str(image), str(blob.digest)] = {
            "image": str(image),
            "digest": str(blob.digest),
            "done_bytes": done_bytes,
            "size_bytes": blob.size_bytes,
        }

    def image_ended(self, warmed: Warmed) -> None:
        said = _describe(warmed) if warmed.error is None else {"image": str(warmed.image), "error": str(warmed.error)}
        self._facts[str(warmed.image), ""] = {"ended": said}

    async def tell(self) -> None:
        """Tell until it is over, the last of it too."""
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TOLD_EVERY_SECONDS):
                    await self.over.wait()
            facts, self._facts = self._facts, {}
            for one in facts.values():
                await self._report(one)


def _describe(warmed: Warmed) -> Document:
    closure = warmed.closure
    return {
        "image": str(warmed.image),
        "digest": None if closure is None else str(closure.root.digest),
        "platforms": [] if closure is None else [str(platform) for platform in closure.platforms],
        "size_bytes": 0 if closure is None else sum(blob.size_bytes for blob in closure.blobs.values()),
        "fetched_bytes": warmed.fetched_bytes,
        "stale": warmed.is_stale,
    }
