"""The store's files, one folder at a time, for who holds them against the accounts or hashes them."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from mirror.concurrency.unhurried import unhurried
from mirror.errors import DigestInvalid, StorageError
from mirror.oci.digest import Digest
from mirror.ports import StoredFile
from mirror.storage.check import Check
from mirror.storage.files import TEMPORARY_SUFFIX, open_in_thread, remove_quietly
from mirror.storage.seals import Seals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.storage.files import Layout

_ABANDONED_SECONDS: Final = 3600.0


class StoredFiles:
    """The files of one cache folder."""

    def __init__(self, layout: Layout) -> None:
        """Take a layout whose folders exist."""
        self._layout = layout
        self._seals = Seals()

    async def shelves(self) -> Sequence[str]:
        """List the shelves in order, each by how its digests begin (``sha256:ab``)."""
        return await asyncio.to_thread(self.list_shelves)

    def list_shelves(self) -> Sequence[str]:
        """Return what ``shelves`` does."""
        return sorted(
            f"{algorithm.name}:{shelf.name}"
            for algorithm in _folders(self._layout.blobs)
            for shelf in _folders(algorithm)
        )

    async def on_shelf(self, shelf: str) -> Mapping[Digest, StoredFile]:
        """Return the files of one shelf; whatever else lies there is left out."""
        return await asyncio.to_thread(lambda: dict(unhurried(self._files_of(shelf))))

    def list_shelf(self, shelf: str) -> Mapping[Digest, StoredFile]:
        """Return what ``on_shelf`` does, at once."""
        return dict(self._files_of(shelf))

    def _files_of(self, shelf: str) -> Iterator[tuple[Digest, StoredFile]]:
        algorithm, _, name = shelf.partition(":")
        with suppress(OSError), os.scandir(self._layout.blobs / algorithm / name) as entries:
            for entry in entries:
                with suppress(DigestInvalid, OSError):
                    file = _file_of(entry.stat(follow_symlinks=False))
                    if file is not None:
                        yield Digest(algorithm, entry.name), file

    async def find(self, digest: Digest) -> StoredFile | None:
        """Look at one file."""
        with suppress(OSError):
            return _file_of(await asyncio.to_thread(self._layout.blob(digest).lstat))
        return None

    async def is_on_its_way(self, digest: Digest) -> bool:
        """Say whether there is a download of it, which may get its name at any moment."""
        return await asyncio.to_thread(self._layout.partial_blob(digest).exists)

    async def remove(self, digests: Sequence[Digest]) -> None:
        """Take the names of stored files away, as far as the disk lets them go."""
        for digest in digests:
            await asyncio.to_thread(remove_quietly, self._layout.blob(digest))

    async def sweep(self) -> int:
        """Remove temporary files that nobody can be writing any more; return how many there were."""
        return await asyncio.to_thread(self._sweep)

    def _sweep(self) -> int:
        before, number = time.time() - _ABANDONED_SECONDS, 0
        for path in self._layout.partial.glob(f"*{TEMPORARY_SUFFIX}"):
            with suppress(OSError):
                if path.lstat().st_mtime < before:
                    path.unlink()
                    number += 1
        return number

    async def check(self, digest: Digest, pace: Callable[[int], Awaitable[None]]) -> bool | None:
        """Hash a file, past the page cache; remove it where it is not what it should be. None where there is none.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            with closing(await open_in_thread(lambda: Check(self._layout, digest))) as check:
                while size_bytes := await asyncio.to_thread(check.step):
                    await pace(size_bytes)
                return await asyncio.to_thread(check.settle, self._seals)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {digest}: {error.strerror}") from error


def _folders(folder: Path) -> list[Path]:
    with suppress(OSError):
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


def _file_of(status: os.stat_result) -> StoredFile | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    return StoredFile(size_bytes=status.st_size, stored_at=status.st_mtime)
