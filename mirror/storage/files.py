"""Small file-system steps that must be durable, or cheap, or both."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mirror.concurrency.folders import make_private

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci.digest import Digest
    from mirror.ports import Bytes

READ_CHUNK_BYTES = 1024 * 1024
ORIGIN_SUFFIX = ".origin"  # of what is known about a download file
TEMPORARY_SUFFIX = ".put"  # of a file that has not got its name yet; its process is in front of it

_SMALL_BYTES = 64 * 1024
# With a megabyte in one go, downloads had half to two thirds of the rate in some states of a virtual machine that gives
# free memory back to its host; presumably the kernel takes larger blocks for it. Much less costs Python's own time.
_WRITTEN_AT_ONCE_BYTES = 256 * 1024


class Closable(Protocol):
    """Whatever holds a descriptor."""

    def close(self) -> None:
        """Let go of it."""
        ...


C = TypeVar("C", bound=Closable | None)


class Layout:
    """Where things are in a cache folder; every path is built from a parsed digest, never from a client's text."""

    def __init__(self, root: Path) -> None:
        """Take the cache folder; it need not exist yet."""
        self.root = root
        self.blobs = root / "blobs"
        self.partial = root / "partial"
        self.index = root / "index"
        self.ledger = self.index / "ledger.db"
        self.figures = root / "figures.db"
        self.links = root / "links"
        self.locks = root / "locks"

    def create(self) -> None:
        """Make the folders that are missing; a cache folder that is made here is its owner's alone.

        Raises:
            OSError: the folder cannot be made or written, or part of it leads elsewhere.
        """
        make_private(self.root)
        for path in (self.blobs, self.partial, self.index, self.links, self.locks, self.figures):
            if path.is_symlink():
                text = "a link in a cache folder may lead anywhere; point cache.dir at the other place instead"
                raise OSError(errno.ELOOP, text, str(path))
        for folder in (self.blobs, self.partial, self.index):
            folder.mkdir(exist_ok=True)

    def find_open_door(self) -> str | None:
        """Say who besides this process's user may change what is in the folder; None where nobody may."""
        status = self.root.stat()
        if status.st_uid not in {os.geteuid(), 0}:
            return f"it belongs to the user {status.st_uid}"
        return "everybody may write to it" if status.st_mode & stat.S_IWOTH else None

    def blob(self, digest: Digest) -> Path:
        """Return the place of a stored blob."""
        return self.blobs / digest.algorithm / digest.encoded[:2] / digest.encoded

    def partial_blob(self, digest: Digest) -> Path:
        """Return the place of a blob that is being downloaded."""
        return self.partial / f"{digest.algorithm}-{digest.encoded}"


def temporary_path(folder: Path) -> Path:
    """Return a name for a file of this process that has not got its name yet."""
    return folder / f"{os.getpid()}-{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"


def open_file(path: Path, flags: int, mode: int = 0o644) -> int:
    """Open a regular file, and nothing that stands in its place: no link, no pipe, no device, no folder.

    Raises:
        OSError: it is something else, or cannot be opened.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe would wait
    try:  # a hit writes nothing, not even when the file was last read: that waits where much else is written
        descriptor = os.open(path, flags | os.O_NOATIME, mode)
    except PermissionError:  # only a file's owner may ask for that
        descriptor = os.open(path, flags, mode)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a file", str(path))


def read_text(path: Path) -> str:
    """Read a small regular file in UTF-8.

    Raises:
        OSError, ValueError: there is none, or something else.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        return file.read(_SMALL_BYTES).decode()


def is_file(path: Path) -> bool:
    """Tell whether there is a regular file of that very name, no link to one."""
    with contextlib.suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


async def open_in_thread(opening: Callable[[], C]) -> C:
    """Open something in a thread; if nobody waits for it any more when it is open, it is closed at once."""
    future = asyncio.get_running_loop().run_in_executor(None, opening)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        future.add_done_callback(_close_result)
        raise


def _close_result(future: asyncio.Future[C]) -> None:
    if not future.cancelled() and future.exception() is None:
        opened = future.result()
        if opened is not None:
            opened.close()


def rename_durably(source: Path, target: Path) -> None:
    """Move a file, already synced, to its final name, so that it is there after a power cut."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    sync_folder(target.parent)


def remove_quietly(path: Path) -> None:
    """Remove what may not be there, from a disk that may not let it go."""
    with contextlib.suppress(OSError):
        path.unlink()


def remove_if_same(path: Path, descriptor: int) -> None:
    """Remove a name, if the disk lets it go, that still leads to an open file and not to one that took its place."""
    with contextlib.suppress(OSError):
        if os.path.samestat(path.lstat(), os.fstat(descriptor)):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: Bytes, offset: int) -> None:
    """Write every byte at an offset.

    By ``pwrite``: a ``write`` would keep the lock of the file's position, on which a follower's ``sendfile`` waits.
    """
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest[:_WRITTEN_AT_ONCE_BYTES], offset)  # may take fewer bytes than it is given
        offset += written
        rest = rest[written:]
