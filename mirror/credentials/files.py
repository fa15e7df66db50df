"""Files that others write at any time: what they hold is read anew when they change, and kept while they cannot be."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = structlog.get_logger(__name__)
T = TypeVar("T")

SIZE_LIMIT_BYTES: Final = 4 * 1024 * 1024
_NOT_THERE: Final = ()


class FileUnusable(Exception):
    """A file that cannot be read as what it should be; the message shows nothing of what it holds."""


class WatchedFile(Generic[T]):
    """What is in one file, as somebody's ``read`` understands it; None while there is no such file."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        """Look once; ``read`` raises FileUnusable for what it cannot use."""
        self._path = path
        self._read = read
        self._seen: tuple[int, ...] | None = None
        self.content: T | None = None
        self.version = 0
        """How often the content may have changed."""
        self.poll()

    def poll(self) -> None:
        """Look again. Blocks on the file system."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.content = None if seen == _NOT_THERE else self._read(self._path)
            self.version += 1
        except FileUnusable as error:  # half written, or mistaken: what was there before is better than nothing
            log.warning("credentials.unreadable", path=str(self._path), error=str(error))

    def _look(self) -> tuple[int, ...]:
        """Return what changes whenever the file is written or replaced."""
        try:
            found = self._path.stat()
        except OSError:
            return _NOT_THERE
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_text(path: Path) -> str:
    """Return a small file's text.

    Raises:
        FileUnusable: it cannot be read, is no file, is longer than 4 MiB, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileUnusable("is not a file")
            content = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise FileUnusable(f"cannot be read: {error.strerror}") from error
    if len(content) > SIZE_LIMIT_BYTES:
        raise FileUnusable("is longer than 4 MiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise FileUnusable("is not UTF-8 text") from None  # the error holds the content
