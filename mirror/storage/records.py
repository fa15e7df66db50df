"""Link files as the accounts need them: what a repository holds of what is stored."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mirror.concurrency.unhurried import unhurried
from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.reference import Tag
from mirror.ports import Record
from mirror.storage.links import LinkFiles, Position

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from mirror.oci.reference import Repository
    from mirror.storage.files import Layout

_SETTLED_SECONDS: Final = 3600.0  # until then, what a manifest names may still be on its way


class LinkRecords:
    """Reads and shortens the link files of one cache folder, in threads."""

    def __init__(self, layout: Layout) -> None:
        """Take a layout whose folders exist."""
        self._layout = layout
        self._links = LinkFiles(layout.links)
        self._unhurried_links = LinkFiles(layout.links, unhurried)

    async def repositories(self) -> Sequence[Repository]:
        """List the repositories of which something is written down."""
        return await asyncio.to_thread(lambda: list(self._links.repositories()))

    async def read(self, repository: Repository, mark: str | None) -> Record | None:
        """Return what is written down; None where that ends at ``mark``, or cannot be read."""
        with suppress(OSError):
            return await asyncio.to_thread(self._read, repository, mark)
        return None

    def _read(self, repository: Repository, mark: str | None) -> Record | None:
        status, known = self._links.status(repository), Position.parse(mark)
        if status is None or (known is not None and known.is_end_of(status)):
            return None
        rows, end = self._unhurried_links.read(repository, None)
        kept = {key: row for key, row in unhurried(rows.items()) if row is not None and self._is_stored(key, row)}
        return _record_of(repository, str(end), kept)

    def holders(self, digests: Collection[Digest]) -> Mapping[Digest, Sequence[Repository]]:
        """Return which repositories hold each of these, from reading every link file."""
        keys = {f"@{digest}": digest for digest in digests}
        found: dict[Digest, list[Repository]] = {digest: [] for digest in digests}
        for repository in self._links.repositories():
            rows, _ = self._links.read(repository, None)
            for key in keys.keys() & {key for key, row in rows.items() if row is not None}:
                found[keys[key]].append(repository)
        return found

    async def compact(self, repository: Repository) -> bool:
        """Leave out what is no longer stored, unless something was added lately; False where nothing was left."""
        with suppress(OSError):
            return await asyncio.to_thread(self._compact, repository)
        return True

    def _compact(self, repository: Repository) -> bool:
        status = self._links.status(repository)
        if status is None or time.time() - status.st_mtime < _SETTLED_SECONDS:
            return True
        return self._unhurried_links.compact(repository, self._is_stored)

    def _is_stored(self, key: str, row: Mapping[str, Any]) -> bool:
        with suppress(MirrorError):
            return self._layout.blob(_digest_of(key, row)).exists()
        return False


def _record_of(repository: Repository, mark: str, rows: Mapping[str, Mapping[str, Any]]) -> Record:
    manifests: dict[Digest, str] = {}
    blobs: list[Digest] = []
    tags: dict[str, Digest] = {}
    pins: dict[str, Digest] = {}
    for key, row in unhurried(rows.items()):
        with suppress(MirrorError):
            digest = _digest_of(key, row)
            match key[:1]:
                case "@" if row.get("manifest"):
                    manifests[digest] = str(row.get("mediaType"))
                case "@":
                    blobs.append(digest)
                case ":":
                    tags[str(Tag.parse(key[1:]))] = digest
                case "!":
                    pins[key[1:]] = digest
                case _:
                    pass  # of a later version
    return Record(
        repository=repository,
        mark=mark,
        manifests=manifests,
        blobs=blobs,
        tags=[(Tag(name), digest) for name, digest in tags.items()],
        pins=[(name, tags.get(name, digest)) for name, digest in pins.items()],  # a tag's pin goes where the tag goes
    )


def _digest_of(key: str, row: Mapping[str, Any]) -> Digest:
    return Digest.parse(key[1:] if key.startswith("@") else str(row.get("digest")))
