"""Blobs that are brought and not fetched: verified beside the store, and named in it when all of them have come.

partial/<random>.import/     a folder that is locked as long as its process lives
    <hex>                    one blob
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from typing import TYPE_CHECKING, Final, Self

from mirror.errors import ArchiveInvalid, StorageError
from mirror.storage.files import rename_durably, write_all
from mirror.storage.seals import is_sealed, seal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mirror.oci.digest import Digest
    from mirror.storage.files import Layout


_SUFFIX: Final = ".import"


def remove_abandoned(layout: Layout) -> None:
    """Remove what imports that were killed have left; those that run keep what they have."""
    for folder in layout.partial.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


class Arrivals:
    """What has come; whatever was not kept when the block ends is removed."""

    def __init__(self, layout: Layout, *, min_free_bytes: int) -> None:
        """Take a layout whose folders exist, and how much of the file system stays free."""
        self._layout = layout
        self._min_free_bytes = min_free_bytes
        self._folder = layout.partial / f"{secrets.token_hex(8)}{_SUFFIX}"
        self._sizes: dict[Digest, int] = {}
        self._temporary: dict[Digest, Path] = {}

    def __enter__(self) -> Self:
        remove_abandoned(self._layout)
        with _translated():
            self._folder.mkdir()
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)
        self._temporary.clear()

    def size_of(self, digest: Digest) -> int | None:
        """Return the size of a blob that has come, whether or not it was stored before."""
        return self._sizes.get(digest)

    def new_bytes(self, digests: Iterable[Digest]) -> int:
        """Return how much of these blobs was not stored before."""
        return sum(self._sizes[digest] for digest in digests if digest in self._temporary)

    def take(self, digest: Digest, size_bytes: int, pieces: Iterable[bytes]) -> None:
        """Hash a blob as it comes; write it down unless it is stored already, and intact.

        Raises:
            ArchiveInvalid: it is not what its digest says.
            StorageError: there is no room for it.
        """
        is_stored = self._is_intact(digest, size_bytes)
        with contextlib.ExitStack() as stack:
            descriptor = None if is_stored else self._open(digest, size_bytes, stack)
            hasher, offset = digest.hasher(), 0
            for piece in pieces:
                hasher.update(piece)
                if descriptor is not None:
                    _write(descriptor, piece, offset)
                offset += len(piece)
            if not digest.matches(hasher):
                raise ArchiveInvalid(f"the archive is damaged: what it has as {digest} is something else")
            if descriptor is not None:
                seal(descriptor, digest)
                os.fsync(descriptor)
        self._sizes[digest] = size_bytes

    def read(self, digest: Digest) -> bytes:
        """Return a blob that has come."""
        return self._temporary.get(digest, self._layout.blob(digest)).read_bytes()

    def keep(self, digests: Iterable[Digest]) -> None:
        """Give these blobs their names in the store.

        Raises:
            StorageError: one could not get it; the rest may have.
        """
        for digest in digests:
            path = self._temporary.get(digest)
            if path is None and not self._layout.blob(digest).exists():
                raise StorageError(f"{digest} was stored, and has just been evicted; import it again")
            try:
                if path is not None:
                    rename_durably(path, self._layout.blob(digest))
            except OSError as error:
                raise StorageError(f"cannot store {digest}: {error.strerror}") from error
            self._temporary.pop(digest, None)

    def _is_intact(self, digest: Digest, size_bytes: int) -> bool:
        """Tell whether a blob is stored, and its file as it was then; else what has come takes its place."""
        with contextlib.suppress(OSError):
            status = self._layout.blob(digest).lstat()
            return status.st_size == size_bytes and is_sealed(status, digest)
        return False

    def _open(self, digest: Digest, size_bytes: int, stack: contextlib.ExitStack) -> int:
        self._check_room(size_bytes)
        path = self._temporary[digest] = self._folder / digest.encoded
        with _translated():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, descriptor)
        return descriptor

    def _check_room(self, size_bytes: int) -> None:
        with _translated():
            system = os.statvfs(self._layout.partial)
        if system.f_bavail * system.f_frsize - size_bytes < self._min_free_bytes:
            raise StorageError(
                f"there is no room for a blob of {size_bytes} bytes in {self._layout.root} beside cache.min_free;"
                " nothing was imported"
            )


def _write(descriptor: int, piece: bytes, offset: int) -> None:
    with _translated():
        write_all(descriptor, piece, offset)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write to the cache folder: {error.strerror}; nothing was imported") from error
