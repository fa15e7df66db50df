"""The growing file of one download, with one writer among all worker processes.

    partial/<algorithm>-<hex>         the bytes, in order; its length is how many there are
    partial/<algorithm>-<hex>.origin  JSON: where they come from and how many there will be

The file is its owner's alone (0600) until its digest has matched, and readable by all (0644) from then on: so the
workers that follow it need not wait until it is on the disk.

The writer holds an exclusive ``flock`` on the file, which the kernel drops when the writer dies. Whoever gets the lock
next finds one of three things: the name still leads to the file (go on writing), the file has a name in the store
(it is complete), or it has no name at all (it was discarded).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import MirrorError, StorageError
from mirror.oci.reference import Repository, parse_repository_name
from mirror.oci.requests import Kind
from mirror.ports import Claim, Origin
from mirror.storage.files import ORIGIN_SUFFIX, READ_CHUNK_BYTES, TEMPORARY_SUFFIX, rename_durably, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.oci.digest import Digest
    from mirror.storage.files import Layout


_UNVERIFIED = 0o600
_VERIFIED = 0o644
_STAT_BLOCK_BYTES = 512  # whatever the file system's own


def _origin_path(path: Path) -> Path:
    return path.with_name(path.name + ORIGIN_SUFFIX)


def doubt_partial(path: Path) -> None:
    """Take back that a file was verified: after a power cut its mode may have lived and its bytes may not."""
    path.chmod(_UNVERIFIED)


def measure_partials(layout: Layout) -> tuple[int, int]:
    """Return the bytes that downloads in progress will have, where that is known, and those that are on the disk."""
    expected_bytes = arrived_bytes = 0
    for path in layout.partial.iterdir():
        if path.suffix:
            continue
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        arrived_bytes += status.st_blocks * _STAT_BLOCK_BYTES
        expected_bytes += max(status.st_size, _announced_size(path))
    return expected_bytes, arrived_bytes


def _announced_size(path: Path) -> int:
    try:
        return int(json.loads(_origin_path(path).read_text(encoding="utf-8"))["size"] or 0)
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def remove_partial(path: Path) -> None:
    """Take away a download file and what is known about it."""
    path.unlink(missing_ok=True)
    _origin_path(path).unlink(missing_ok=True)


class PartialFile:
    """A download file, open for reading by followers and for appending by the one who claimed it."""

    def __init__(self, descriptor: int, path: Path, target: Path, digest: Digest) -> None:
        """Take over an open descriptor of ``path``, to become ``target``."""
        self._descriptor = descriptor
        self._path = path
        self._target = target
        self._digest = digest
        self._hasher = digest.hasher()
        self._is_claimed = False
        self._step: asyncio.Future[None] | None = None

    @classmethod
    def open(cls, layout: Layout, digest: Digest) -> PartialFile:
        """Open the download file of ``digest``, made when there is none.

        Raises:
            StorageError: it could not be made.
        """
        path = layout.partial_blob(digest)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _UNVERIFIED)
        except OSError as error:
            raise StorageError(f"cannot make a file for {digest}: {error.strerror}") from error
        return cls(descriptor, path, layout.blob(digest), digest)

    def fileno(self) -> int:
        """Return a descriptor that stays readable when the file gets its name in the store."""
        return self._descriptor

    def written_bytes(self) -> int:
        """Return how much is in the file, whoever wrote it."""
        return os.fstat(self._descriptor).st_size

    def is_verified(self) -> bool:
        """Say whether its writer has found the digest to match."""
        return bool(os.fstat(self._descriptor).st_mode & stat.S_IROTH)

    def claim(self) -> Claim:
        """Try to become its one writer; the claim ends with ``close`` or with the process."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Claim.BUSY
        ours = os.fstat(self._descriptor)
        if ours.st_nlink == 0:
            return Claim.DISCARDED
        if not self._is_at(self._path, ours):
            return Claim.STORED
        if self._target.exists():  # stored between the look into the store and the making of this file
            remove_partial(self._path)
            return Claim.STORED
        os.fchmod(self._descriptor, _UNVERIFIED)
        self._is_claimed = True
        return Claim.WRITER

    @staticmethod
    def _is_at(path: Path, ours: os.stat_result) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(path.stat(), ours)
        return False

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Run one step of the writer; they never overlap."""
        self._step = asyncio.get_running_loop().run_in_executor(None, work)
        await asyncio.shield(self._step)

    async def read_written(self) -> None:
        """Hash what an earlier writer left, so that ``append`` can go on after it."""
        await self._in_thread(self._read_written)

    def _read_written(self) -> None:
        self._hasher = self._digest.hasher()
        offset = 0
        while chunk := os.pread(self._descriptor, READ_CHUNK_BYTES, offset):
            self._hasher.update(chunk)
            offset += len(chunk)

    async def announce(self, origin: Origin) -> None:
        """Tell the other workers, and the next start, what this will be."""
        await self._in_thread(lambda: self._announce(origin))

    def _announce(self, origin: Origin) -> None:
        document = {
            "upstream": origin.repository.upstream,
            "repository": origin.repository.name,
            "kind": str(origin.kind),
            "size": origin.size_bytes,
            "inode": os.fstat(self._descriptor).st_ino,
        }
        target = _origin_path(self._path)
        temporary = target.with_suffix(TEMPORARY_SUFFIX)
        try:
            temporary.write_text(json.dumps(document), encoding="utf-8")
            temporary.rename(target)
        except OSError as error:
            raise StorageError(f"cannot write about {self._digest}: {error.strerror}") from error

    async def announced(self) -> Origin | None:
        """Return what the writer of this very file has announced."""
        return await asyncio.to_thread(self.read_announcement)

    def read_announcement(self) -> Origin | None:
        """Return what ``announced`` does, at once."""
        try:
            document = json.loads(_origin_path(self._path).read_text(encoding="utf-8"))
            if document["inode"] != os.fstat(self._descriptor).st_ino:
                return None  # about a file that had this name before
            size = document["size"]
            return Origin(
                repository=Repository(str(document["upstream"]), parse_repository_name(document["repository"])),
                kind=Kind(document["kind"]),
                size_bytes=None if size is None else int(size),
            )
        except (OSError, ValueError, TypeError, KeyError, MirrorError):
            return None  # not yet, not ours or not readable: as good as nothing

    async def append(self, pieces: Sequence[bytes]) -> None:
        """Hash and write; bytes are visible to every follower when this returns.

        Raises:
            StorageError: the disk did not take them.
        """
        await self._in_thread(lambda: self._append(pieces))

    def _append(self, pieces: Sequence[bytes]) -> None:
        try:
            write_all(self._descriptor, pieces, self.written_bytes())
        except OSError as error:
            raise StorageError(f"cannot write {self._digest}: {error.strerror}") from error
        for piece in pieces:
            self._hasher.update(piece)

    def matches(self) -> bool:
        """Say whether all that was written hashes to the digest."""
        return self._digest.matches(self._hasher)

    async def commit(self) -> None:
        """Make it durable and give it its name in the store; only for content that matches.

        Raises:
            StorageError: it could not be made durable; the file stays where it is.
        """
        await self._in_thread(self._commit)

    def _commit(self) -> None:
        try:
            os.fchmod(self._descriptor, _VERIFIED)
            os.fsync(self._descriptor)
            rename_durably(self._path, self._target)
            self._is_claimed = False
            _origin_path(self._path).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot store {self._digest}: {error.strerror}") from error

    async def discard(self) -> None:
        """Remove the file; every follower finds it discarded."""
        self._is_claimed = False
        await asyncio.to_thread(remove_partial, self._path)

    def close(self) -> None:
        """Let go of the file and of the claim; what was written stays for the next writer. Twice does nothing."""
        if self._step is not None and not self._step.done():
            # its waiter was cancelled: a descriptor that is closed under a write may be another file's by then
            self._step.add_done_callback(self._close_after)
        else:
            self._close()

    def _close_after(self, step: asyncio.Future[None]) -> None:
        if not step.cancelled():
            step.exception()  # nobody is left to hear of it
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            if self._is_claimed and not self.written_bytes():
                remove_partial(self._path)  # nothing came: nothing to go on with
            os.close(self._descriptor)
            self._descriptor = -1
