"""Stretches of a download that came before what belongs in front of them, each a file beside the download's.

    partial/<algorithm>-<hex>.<first>.part    bytes of the blob from <first> on; its length is how many there are

So the download's own file stays what it is, the blob's beginning without a gap, whoever looks at it and whenever its
writer dies. A part is hashed when it is appended there.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mirror.errors import StorageError
from mirror.storage.files import open_file, write_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.ports import Bytes

T = TypeVar("T")

PART_SUFFIX = ".part"


def find_parts(path: Path) -> list[int]:
    """Return where the parts of a download begin."""
    prefix = f"{path.name}."  # no pattern: a regular expression would be compiled for each blob
    names = [one.name for one in path.parent.iterdir() if one.name.startswith(prefix) and one.suffix == PART_SUFFIX]
    numbers = [name.removeprefix(prefix).removesuffix(PART_SUFFIX) for name in names]
    return sorted(int(number) for number in numbers if number.isascii() and number.isdigit())


def part_path(path: Path, first: int) -> Path:
    """Return the place of a part of the download at ``path``."""
    return path.with_name(f"{path.name}.{first}{PART_SUFFIX}")


def remove_parts(path: Path) -> None:
    """Take away all parts of a download."""
    for first in find_parts(path):
        part_path(path, first).unlink(missing_ok=True)


class PartFile:
    """One part, open for appending and reading; both may be cancelled, and never overlap with ``close``."""

    def __init__(self, descriptor: int, path: Path, first: int) -> None:
        """Take over an open descriptor."""
        self._descriptor = descriptor
        self._path = path
        self._first = first
        self._end = first + os.fstat(descriptor).st_size
        self._running = 0
        self._is_closed = False

    @classmethod
    def open(cls, path: Path, first: int) -> PartFile:
        """Open the part that begins at ``first``, made when there is none.

        Raises:
            StorageError: it could not be made.
        """
        target = part_path(path, first)
        try:
            descriptor = open_file(target, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"cannot make {target.name}: {error.strerror}") from error
        return cls(descriptor, target, first)

    @property
    def first(self) -> int:
        """Where in the blob it begins."""
        return self._first

    @property
    def end(self) -> int:
        """Where in the blob what is there ends."""
        return self._end

    async def append(self, content: Bytes) -> None:
        """Write behind what is there.

        Raises:
            StorageError: the disk did not take it.
        """
        await self._in_thread(lambda: self._append(content))
        self._end += len(content)

    def _append(self, content: Bytes) -> None:
        try:
            write_all(self._descriptor, content, self._end - self._first)
        except OSError as error:
            raise StorageError(f"cannot write {self._path.name}: {error.strerror}") from error

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        """Return bytes from ``offset`` in the blob on, at least one where there is one.

        Raises:
            StorageError: the disk did not give them.
        """
        return await self._in_thread(lambda: self._read(offset, limit_bytes))

    def _read(self, offset: int, limit_bytes: int) -> bytes:
        try:
            return os.pread(self._descriptor, min(limit_bytes, self._end - offset), offset - self._first)
        except OSError as error:
            raise StorageError(f"cannot read {self._path.name}: {error.strerror}") from error

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._running += 1
        step = asyncio.get_running_loop().run_in_executor(None, work)
        step.add_done_callback(self._ended)
        return await asyncio.shield(step)

    def _ended(self, step: asyncio.Future[Any]) -> None:
        if not step.cancelled():
            step.exception()  # whoever waits has it; perhaps nobody does any more
        self._running -= 1
        self._close_if_idle()

    def close(self) -> None:
        """Let go of it; what is there stays for the next writer. Twice does nothing."""
        self._is_closed = True
        self._close_if_idle()

    def remove(self) -> None:
        """Let go of it and take it away."""
        self._path.unlink(missing_ok=True)
        self.close()

    def _close_if_idle(self) -> None:
        if self._is_closed and not self._running and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
