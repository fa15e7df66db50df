"""The growing file of one download, with one writer among all worker processes.

    partial/<algorithm>-<hex>         the bytes, in order; its length is how many there are
    partial/<algorithm>-<hex>.origin  JSON: where they come from and how many there will be

The file is its owner's alone (0600) until its digest has matched, and readable by all (0644) from then on: so the
workers that follow it need not wait until it is on the disk. A writer that finds no room for the rest takes the name
away, makes the file readable by the group (0640) and lets go of the lock: what is there is right, and whoever follows
in another process goes on for itself, as the writer does, through memory (`mirror.storage.spill`).

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
from mirror.storage.files import (
    ORIGIN_SUFFIX,
    READ_CHUNK_BYTES,
    is_file,
    open_file,
    open_in_thread,
    read_text,
    remove_quietly,
    rename_durably,
    temporary_path,
    write_all,
)
from mirror.storage.parts import PART_SUFFIX, PartFile, find_parts, remove_parts
from mirror.storage.seals import seal
from mirror.storage.spill import Spill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.oci.digest import Digest
    from mirror.ports import Bytes
    from mirror.storage.files import Layout


_UNVERIFIED = 0o600
_VERIFIED = 0o644
_GIVEN_UP = 0o640
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
        if path.suffix not in {"", PART_SUFFIX}:
            continue
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_mode & stat.S_IROTH:
            continue  # verified, and accounted for as stored
        arrived_bytes += status.st_blocks * _STAT_BLOCK_BYTES
        if path.suffix:
            continue  # what is in a part is expected of its download
        expected_bytes += max(status.st_size, _announced_size(path))
    return expected_bytes, arrived_bytes


def _announced_size(path: Path) -> int:
    try:
        return int(json.loads(read_text(_origin_path(path)))["size"] or 0)
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def remove_partial(path: Path) -> None:
    """Take away a download file and what is known about it."""
    path.unlink(missing_ok=True)
    remove_quietly(_origin_path(path))
    remove_parts(path)


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
        self._spill: Spill | None = None

    @classmethod
    def open(cls, layout: Layout, digest: Digest) -> PartialFile:
        """Open the download file of ``digest``, made when there is none.

        Raises:
            StorageError: it could not be made.
        """
        path = layout.partial_blob(digest)
        try:
            descriptor = open_file(path, os.O_RDWR | os.O_CREAT, _UNVERIFIED)
        except OSError as error:
            raise StorageError(f"cannot make a file for {digest}: {error.strerror}") from error
        return cls(descriptor, path, layout.blob(digest), digest)

    @classmethod
    def in_memory(cls, layout: Layout, digest: Digest) -> PartialFile:
        """Begin a download that nothing can be stored of.

        Raises:
            StorageError: not even memory is to be had.
        """
        try:
            descriptor = os.memfd_create("mirror-partial", os.MFD_CLOEXEC)
            os.fchmod(descriptor, _UNVERIFIED)
            partial = cls(descriptor, layout.partial_blob(digest), layout.blob(digest), digest)
            partial._spill = Spill(0)
        except OSError as error:
            raise StorageError(f"cannot hold {digest} in memory: {error.strerror}") from error
        return partial

    def fileno(self) -> int:
        """Return a descriptor that stays readable when the file gets its name in the store."""
        return self._descriptor

    def fileno_at(self, offset: int) -> int:
        """Return the descriptor that has the bytes at an offset."""
        return self._spill.descriptor if self._spill is not None and offset >= self._spill.start else self._descriptor

    def written_bytes(self) -> int:
        """Return how much is in the file, whoever wrote it."""
        return os.fstat(self._descriptor).st_size if self._spill is None else self._spill.size()

    # ---- without room

    @property
    def spilled_at(self) -> int | None:
        """Where it goes on in memory; None while it is on the disk."""
        return None if self._spill is None else self._spill.start

    def spill(self) -> None:
        """Go on in memory after what is there: it will not be stored, and nobody else may wait for it.

        Raises:
            StorageError: there is no memory either.
        """
        try:
            self._spill = Spill(self.written_bytes())
        except OSError as error:
            raise StorageError(f"cannot hold {self._digest} in memory: {error.strerror}") from error
        with contextlib.suppress(OSError):  # a read-only disk keeps the name; who opens it finds nobody writing
            if self._is_at(self._path, os.fstat(self._descriptor)):
                remove_partial(self._path)
            os.fchmod(self._descriptor, _GIVEN_UP)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._is_claimed = False

    def release(self, offset: int) -> None:
        """Give up what is in memory below an offset."""
        if self._spill is not None:
            try:
                self._spill.release(offset)
            except OSError as error:
                raise StorageError(f"cannot pass {self._digest} on: {error.strerror}") from error

    def is_verified(self) -> bool:
        """Say whether its writer has found the digest to match."""
        return bool(os.fstat(self._descriptor).st_mode & stat.S_IROTH)

    def claim(self) -> Claim:
        """Try to become its one writer; the claim ends with ``close`` or with the process."""
        if self._spill is not None:
            return Claim.WRITER
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Claim.BUSY
        ours = os.fstat(self._descriptor)
        if ours.st_nlink == 0:
            return self._claim_nameless(ours)
        if not self._is_at(self._path, ours):
            return Claim.STORED
        if is_file(self._target):  # stored between the look into the store and the making of this file
            remove_partial(self._path)
            return Claim.STORED
        os.fchmod(self._descriptor, _UNVERIFIED)
        self._is_claimed = True
        return Claim.WRITER

    def _claim_nameless(self, ours: os.stat_result) -> Claim:
        mode = stat.S_IMODE(ours.st_mode)
        if mode == _VERIFIED:
            return Claim.STORED  # and evicted since
        if mode != _GIVEN_UP:
            return Claim.DISCARDED
        self.spill()
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
        temporary = temporary_path(target.parent)
        try:
            temporary.write_text(json.dumps(document), encoding="utf-8")
            temporary.rename(target)
        except OSError as error:
            remove_quietly(temporary)
            raise StorageError(f"cannot write about {self._digest}: {error.strerror}") from error

    async def announced(self) -> Origin | None:
        """Return what the writer of this very file has announced."""
        return await asyncio.to_thread(self.read_announcement)

    def read_announcement(self) -> Origin | None:
        """Return what ``announced`` does, at once."""
        try:
            document = json.loads(read_text(_origin_path(self._path)))
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

    async def append(self, content: Bytes) -> None:
        """Hash and write; bytes are visible to every follower when this returns.

        Raises:
            StorageError: the disk did not take them all; ``written_bytes`` says how many it took.
        """
        await self._in_thread(lambda: self._append(content))

    def _append(self, content: Bytes) -> None:
        start = self.written_bytes()
        try:
            write_all(self._descriptor if self._spill is None else self._spill.descriptor, content, start)
        except OSError as error:
            self._hasher.update(content[: self.written_bytes() - start])  # others have seen it already
            raise StorageError(f"cannot write {self._digest}: {error.strerror}") from error
        self._hasher.update(content)

    async def open_part(self, first: int) -> PartFile:
        """Open the part that begins at ``first``, made when there is none.

        Raises:
            StorageError: it could not be made.
        """
        return await open_in_thread(lambda: PartFile.open(self._path, first))

    async def open_parts(self) -> Sequence[PartFile]:
        """Open the parts that an earlier writer left."""
        return [await self.open_part(first) for first in await asyncio.to_thread(find_parts, self._path)]

    def matches(self) -> bool:
        """Say whether all that was written hashes to the digest."""
        return self._digest.matches(self._hasher)

    def mark_verified(self) -> None:
        """Tell the other workers that all of it is there and matches.

        Raises:
            StorageError: the disk is read-only.
        """
        try:
            os.fchmod(self._descriptor, _VERIFIED)
        except OSError as error:
            raise StorageError(f"cannot store {self._digest}: {error.strerror}") from error

    async def commit(self) -> None:
        """Make it durable and give it its name in the store; only for content that matches.

        Raises:
            StorageError: it could not be made durable; the file stays where it is.
        """
        await self._in_thread(self._commit)

    def _commit(self) -> None:
        try:
            seal(self._descriptor, self._digest)
            os.fsync(self._descriptor)
            rename_durably(self._path, self._target)
            self._is_claimed = False
            _origin_path(self._path).unlink(missing_ok=True)
            remove_parts(self._path)
        except OSError as error:
            raise StorageError(f"cannot store {self._digest}: {error.strerror}") from error

    async def discard(self) -> None:
        """Remove the file; every follower finds it discarded."""
        self._is_claimed = False
        if self._spill is None:
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
            if self._spill is not None:
                self._spill.close()
