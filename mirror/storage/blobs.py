"""Stored blobs: plain files named by their digest, each complete and verified before it gets its name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING

from mirror.errors import DigestInvalid, StorageError
from mirror.oci.digest import Digest
from mirror.ports import Space
from mirror.storage.arrivals import remove_abandoned
from mirror.storage.files import (
    ORIGIN_SUFFIX,
    READ_CHUNK_BYTES,
    TEMPORARY_SUFFIX,
    is_file,
    open_file,
    open_in_thread,
    remove_if_same,
    remove_quietly,
    rename_durably,
    temporary_path,
    write_all,
)
from mirror.storage.leftovers import list_underway, remove_leftovers, sweep
from mirror.storage.partial import PartialFile, doubt_partial, measure_partials, remove_partial
from mirror.storage.parts import PART_SUFFIX
from mirror.storage.seals import Seals, seal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mirror.oci.digest import Hasher
    from mirror.ports import Origin, StoredBlob, Underway
    from mirror.storage.files import Layout

_STEP_BYTES = 32 * 1024 * 1024  # hashed in one thread's turn


def _digest_of(path: Path) -> Digest | None:
    """Return whose download file this is, if it is one."""
    try:
        return Digest.parse(path.name.replace("-", ":", 1))
    except DigestInvalid:
        return None


class StoredBody:
    """An open stored blob. An evicted file stays readable until this is closed."""

    def __init__(self, descriptor: int, size_bytes: int, *, is_doubted: bool = False) -> None:
        """Take over an open descriptor."""
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self.is_doubted = is_doubted

    @property
    def size_bytes(self) -> int:
        """The whole size."""
        return self._size_bytes

    def fileno(self) -> int:
        """Return the open descriptor."""
        return self._descriptor

    def readable_now(self) -> int:
        """Return the size: all of it is there."""
        return self._size_bytes

    async def readable_to(self, offset: int) -> int:  # noqa: ARG002 - the answer is the same at every offset
        """Return the size: all of it is there."""
        return self._size_bytes

    def share(self) -> StoredBody:
        """Return the same file, open once more."""
        return StoredBody(os.dup(self._descriptor), self._size_bytes, is_doubted=self.is_doubted)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileBlobStore:
    """Blobs under ``blobs/<algorithm>/<two hex digits>/<hex>`` and downloads under ``partial/``."""

    def __init__(self, layout: Layout) -> None:
        """Take a layout whose folders exist."""
        self._layout = layout
        self._seals = Seals()

    async def find(self, digest: Digest) -> StoredBody | None:
        """Open a stored blob."""
        return await open_in_thread(lambda: self._find(digest))

    def _find(self, digest: Digest) -> StoredBody | None:
        try:
            # opened before it is measured: an eviction in between takes the name, not the bytes
            descriptor = open_file(self._layout.blob(digest), os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot open {digest}: {error.strerror}") from error
        status = os.fstat(descriptor)
        return StoredBody(descriptor, status.st_size, is_doubted=not self._seals.holds(status, digest))

    async def examine(self, digest: Digest, stored: StoredBlob) -> bool:
        """Hash an open blob; trust its file from now on if it is right, and take its name away if it is not.

        Raises:
            StorageError: it cannot be read.
        """
        hasher, offset = digest.hasher(), 0
        while offset < stored.size_bytes:
            offset = await asyncio.to_thread(self._hash, hasher, stored.fileno(), offset)
        is_right = digest.matches(hasher)
        await asyncio.to_thread(self._settle, digest, stored.fileno(), is_right=is_right)
        return is_right

    def _hash(self, hasher: Hasher, descriptor: int, offset: int) -> int:
        """Hash one step; return where the next begins."""
        end = offset + _STEP_BYTES
        try:
            while offset < end and (chunk := os.pread(descriptor, READ_CHUNK_BYTES, offset)):
                hasher.update(chunk)
                offset += len(chunk)
        except OSError as error:
            raise StorageError(f"cannot read a stored blob: {error.strerror}") from error
        return max(offset, end)

    def _settle(self, digest: Digest, descriptor: int, *, is_right: bool) -> None:
        if is_right:
            self._seals.renew(descriptor, digest)
        else:
            remove_if_same(self._layout.blob(digest), descriptor)

    async def read(self, digest: Digest, *, limit_bytes: int) -> bytes | None:
        """Return a stored blob whole; None when it is not there or longer than the limit."""
        return await asyncio.to_thread(self._read, digest, limit_bytes)

    def _read(self, digest: Digest, limit_bytes: int) -> bytes | None:
        body = self._find(digest)
        if body is None:
            return None
        with contextlib.closing(body):
            if body.size_bytes > limit_bytes:
                return None
            content = os.pread(body.fileno(), limit_bytes, 0)
        # small enough to check every time: a rotten manifest is fetched again rather than served
        return content if Digest.of(content, digest.algorithm) == digest else None

    async def put(self, digest: Digest, content: bytes) -> bool:
        """Store content whose digest the caller has verified; return whether it was not there before.

        Raises:
            StorageError: it could not be written.
        """
        return await asyncio.to_thread(self._put, digest, content)

    def _put(self, digest: Digest, content: bytes) -> bool:
        temporary = temporary_path(self._layout.partial)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                write_all(descriptor, content, 0)
                seal(descriptor, digest)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            target = self._layout.blob(digest)
            is_new = not target.exists()
            rename_durably(temporary, target)
        except OSError as error:
            remove_quietly(temporary)
            raise StorageError(f"cannot store {digest}: {error.strerror}") from error
        return is_new

    async def open_partial(self, digest: Digest) -> PartialFile:
        """Open the download file of a digest, made when there is none.

        Raises:
            StorageError: it could not be made.
        """
        return await open_in_thread(lambda: PartialFile.open(self._layout, digest))

    def hold_in_memory(self, digest: Digest) -> PartialFile:
        """Begin a download that nothing can be stored of; it gives back what its followers have read.

        Raises:
            StorageError: not even memory is to be had.
        """
        return PartialFile.in_memory(self._layout, digest)

    async def partials(self) -> Sequence[tuple[Digest, Origin]]:
        """List the downloads that an earlier process left unfinished."""
        return await asyncio.to_thread(self._partials)

    def _partials(self) -> list[tuple[Digest, Origin]]:
        candidates = [(path, _digest_of(path)) for path in sorted(self._layout.partial.iterdir())]
        found = ((digest, self._origin(digest)) for _, digest in candidates if digest is not None)
        return [(digest, origin) for digest, origin in found if origin is not None]

    async def underway(self) -> Sequence[Underway]:
        """List the blobs of which there is a part, whichever process downloads them.

        Raises:
            StorageError: the folder cannot be read.
        """
        try:
            return await asyncio.to_thread(list_underway, self._layout)
        except OSError as error:
            raise StorageError(f"cannot read the cache folder: {error.strerror}") from error

    async def remove_leftovers(self, *, unused_seconds: float) -> Mapping[str, Sequence[int]]:
        """Remove what nobody goes on with and nobody changed for so long; return the sizes by kind.

        Raises:
            StorageError: the folder cannot be read.
        """
        try:
            return await asyncio.to_thread(remove_leftovers, self._layout, before=time.time() - unused_seconds)
        except OSError as error:
            raise StorageError(f"cannot read the cache folder: {error.strerror}") from error

    async def sweep(self, *, now: float) -> None:
        """Remove what killed processes left and nobody can go on with; trouble with that is nobody's trouble."""
        with contextlib.suppress(OSError, StorageError):
            await asyncio.to_thread(sweep, self._layout, now=now)

    def clean(self) -> None:
        """Remove what killed processes left and nobody can go on with; only before any worker of this cache runs."""
        remove_abandoned(self._layout)
        for path in self._layout.partial.iterdir():
            digest = _digest_of(path)
            is_left_alone = path.suffix == ORIGIN_SUFFIX and not path.with_suffix("").exists()
            is_left_alone |= path.suffix == PART_SUFFIX and not path.with_name(path.name.partition(".")[0]).exists()
            if path.suffix == TEMPORARY_SUFFIX or is_left_alone or (digest is not None and not is_file(path)):
                remove_quietly(path)
            elif digest is not None and self._origin(digest) is None:
                remove_partial(path)
            elif digest is not None:
                doubt_partial(path)

    def _origin(self, digest: Digest) -> Origin | None:
        with contextlib.closing(PartialFile.open(self._layout, digest)) as partial:
            return partial.read_announcement()

    async def check_writable(self) -> None:
        """Write and remove a small file.

        Raises:
            StorageError: the store cannot take anything.
        """
        await asyncio.to_thread(self._check_writable)

    def _check_writable(self) -> None:
        probe = temporary_path(self._layout.partial)
        try:
            probe.write_bytes(b"writable")
            probe.unlink()
        except OSError as error:
            remove_quietly(probe)
            raise StorageError(f"cannot write to the cache folder: {error.strerror}") from error

    # ---- room

    async def space(self) -> Space:
        """Measure the file system, and what downloads in progress take of it.

        Raises:
            StorageError: the folder cannot be read.
        """
        return await asyncio.to_thread(self._space)

    def _space(self) -> Space:
        try:
            expected_bytes, arrived_bytes = measure_partials(self._layout)
            system = os.statvfs(self._layout.blobs)
        except OSError as error:
            raise StorageError(f"cannot measure the cache folder: {error.strerror}") from error
        return Space(
            free_bytes=system.f_bavail * system.f_frsize,
            expected_bytes=expected_bytes,
            missing_bytes=max(0, expected_bytes - arrived_bytes),
        )

    async def size_of(self, digest: Digest) -> int | None:
        """Return the size of a stored file."""
        with contextlib.suppress(OSError):
            status = await asyncio.to_thread(self._layout.blob(digest).lstat)
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        return None

    async def remove(self, digests: Sequence[Digest]) -> None:
        """Take the names of stored files away; who has one open reads on.

        Raises:
            StorageError: one could not be removed.
        """
        await asyncio.to_thread(self._remove, digests)

    def _remove(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            try:
                self._layout.blob(digest).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"cannot remove {digest}: {error.strerror}") from error
