"""What repositories are known to hold, in one plain file for each: what the index is rebuilt from.

    links/<upstream>/<name, with + for />   JSON objects, one a line: rows by their keys; null takes a row away

        @<digest>       mediaType, size, manifest, private      the repository holds this
        :<tag>          mediaType, digest, size, confirmed      where the tag pointed
        !<reference>    digest                                  somebody has pinned it

The first line has a name for the file (key ``file``), by which one that was written anew is told from the one before.
Lines are added under a lock and never synced: what a power cut takes is asked for again. A line that makes no sense is
left out, and so is one that was cut off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from mirror.errors import MirrorError
from mirror.oci.reference import Repository
from mirror.storage.files import open_file, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    Rows = dict[str, dict[str, Any] | None]

T = TypeVar("T")

_FILE = "file"
_COMPACTED = ".compacted"  # no repository's name begins with a dot


@dataclass(frozen=True, slots=True)
class Position:
    """How far a link file has been read: its own name, its inode, and the offset."""

    file: str
    inode: int
    offset: int

    @classmethod
    def parse(cls, text: object) -> Self | None:
        """Read what ``str`` has written; None for anything else."""
        with contextlib.suppress(ValueError):
            file, inode, offset = str(text).split()
            return cls(file, int(inode), int(offset))
        return None

    def __str__(self) -> str:
        """Write ``name inode offset``."""
        return f"{self.file} {self.inode} {self.offset}"

    def is_end_of(self, status: os.stat_result) -> bool:
        """Say whether a file has nothing after this."""
        return (self.inode, self.offset) == (status.st_ino, status.st_size)


class Pace(Protocol):
    """A way to go through items."""

    def __call__(self, items: Iterable[T], /) -> Iterator[T]:
        """Yield them."""
        ...


class LinkFiles:
    """The link files of one cache folder, shared by the workers; every call may raise OSError."""

    def __init__(self, folder: Path, pace: Pace = iter) -> None:
        """Take the folder, which need not exist yet, and the pace at which to go through lines."""
        self._folder = folder
        self._pace = pace

    def repositories(self) -> Iterator[Repository]:
        """Yield the repositories of which there is a file."""
        for upstream in _entries(self._folder):
            for name in _entries(self._folder / upstream):
                with contextlib.suppress(MirrorError):
                    yield Repository(upstream, name.replace("+", "/"))

    def status(self, repository: Repository) -> os.stat_result | None:
        """Return what the file is like."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self._path(repository).lstat()
        return None

    def append(self, repository: Repository, rows: Rows) -> tuple[Position, Position]:
        """Add rows; return where they begin and where they end."""
        with self._locked(repository) as descriptor:
            file, start = _name_of(descriptor), os.fstat(descriptor)
            line = _line(rows)
            if not file:  # new, or its beginning is lost
                file = secrets.token_hex(8)
                line = _line({_FILE: file}) + line if not start.st_size else line
            if start.st_size and os.pread(descriptor, 1, start.st_size - 1) != b"\n":
                line = b"\n" + line
            write_all(descriptor, line, start.st_size)
            end = start.st_size + len(line)
            return Position(file, start.st_ino, start.st_size), Position(file, start.st_ino, end)

    def read(self, repository: Repository, since: Position | None) -> tuple[Rows, Position | None]:
        """Return the rows that were added after ``since``, all where that is of another file, and where they end."""
        try:
            descriptor = open_file(self._path(repository), os.O_RDONLY)
        except FileNotFoundError:
            return {}, None
        with os.fdopen(descriptor, "rb") as file:
            status, name = os.fstat(descriptor), _name_of(descriptor)
            if since is not None and since.file == name and since.offset <= status.st_size:
                file.seek(since.offset)
            content = file.read(status.st_size - file.tell())
        return self._fold(content), Position(name or "?", status.st_ino, status.st_size)

    def _fold(self, content: bytes) -> Rows:
        """Return each row as its last line has it."""
        rows: Rows = {}
        for line in self._pace(content.split(b"\n")):
            with contextlib.suppress(ValueError):
                read = json.loads(line) if line else None
                if isinstance(read, dict):
                    rows |= {key: row for key, row in read.items() if row is None or isinstance(row, dict)}
        return rows

    def compact(self, repository: Repository, keep: Callable[[str, Mapping[str, Any]], bool]) -> bool:
        """Write the file anew with the rows that ``keep`` says yes to, if it gets much shorter.

        Nobody is kept from adding rows while it is read; where somebody has, it stays as it is.

        Return whether any is left; the file goes where none is.
        """
        rows, end = self.read(repository, None)
        kept = [(key, row) for key, row in self._pace(rows.items()) if row is not None and keep(key, row)]
        content = b"".join(
            [_line({_FILE: secrets.token_hex(8)}), *(_line({key: row}) for key, row in self._pace(kept))]
        )
        if end is None or (kept and len(content) * 2 >= end.offset):
            return True
        path = self._path(repository)
        with self._locked(repository) as descriptor:
            if not end.is_end_of(os.fstat(descriptor)):
                return True
            if not kept:
                path.unlink()
                return False
            written = path.with_name(_COMPACTED)
            written.write_bytes(content)
            written.rename(path)
            return True

    def _path(self, repository: Repository) -> Path:
        return self._folder / repository.upstream / repository.name.replace("/", "+")

    @contextmanager
    def _locked(self, repository: Repository) -> Iterator[int]:
        """Open the file, made when there is none, and keep others from changing it."""
        path = self._path(repository)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _leads_to(path, descriptor):  # else it was written anew meanwhile
                    yield descriptor
                    return
            finally:
                os.close(descriptor)


def _leads_to(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False


def _entries(folder: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return []


def _line(rows: Mapping[str, object]) -> bytes:
    return json.dumps(rows, separators=(",", ":")).encode() + b"\n"


def _name_of(descriptor: int) -> str | None:
    """Return the name that a file has given itself."""
    head, _, _ = os.pread(descriptor, 64, 0).partition(b"\n")
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(head)[_FILE])
    return None
