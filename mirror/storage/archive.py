"""Image layouts as tar files: written as a stream of verified blobs, read from whoever has made them.

An archive may come from anybody. Nothing in it is unpacked by its name, and what the tar format offers beyond plain
files is refused. Headers are read within a bound: `tarfile` would read one of any length into memory.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from mirror.errors import ArchiveInvalid, StorageError, quote
from mirror.oci.layout import INDEX_NAME, MARKER, MARKER_NAME, blob_name
from mirror.storage.files import READ_CHUNK_BYTES, open_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mirror.oci.digest import Digest
    from mirror.storage.files import Layout

_BLOCK_BYTES: Final = 512
_END: Final = bytes(2 * _BLOCK_BYTES)
MOST_MEMBERS: Final = 50_000
_HEADERS_LIMIT_BYTES: Final = 1024 * 1024  # between two members; one piece of it may be read ahead
_PIECE_BYTES: Final = 64 * 1024  # `tarfile` makes new bytes of each; larger ones would be mapped and unmapped each time
_GZIP_MAGIC: Final = b"\x1f\x8b"
# what `tarfile` and `gzip` raise for input that makes no sense
_NONSENSE: Final = (tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError, ValueError, LookupError, ArithmeticError)


# ---- writing


def write_archive(
    stream: IO[bytes], layout: Layout, index: bytes, blobs: Iterable[Digest], *, wrote: Callable[[int], None]
) -> None:
    """Write an image layout of stored blobs; ``wrote`` is told of bytes. The same input gives the same bytes.

    Raises:
        StorageError: a blob is gone or damaged: then what was written is no archive.
        OSError: the stream does not take it.
    """
    for name, content in ((MARKER_NAME, MARKER), (INDEX_NAME, index)):
        stream.write(_header(name, len(content)) + content + _padding(len(content)))
    for digest in blobs:
        _write_blob(stream, layout, digest, wrote)
    stream.write(_END)


def _header(name: str, size_bytes: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size_bytes, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _BLOCK_BYTES)


def _write_blob(stream: IO[bytes], layout: Layout, digest: Digest, wrote: Callable[[int], None]) -> None:
    try:
        descriptor = open_file(layout.blob(digest), os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot read {digest}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb", buffering=0) as stored:
        size_bytes = os.fstat(descriptor).st_size
        hasher, remaining_bytes = digest.hasher(), size_bytes
        buffer = memoryview(bytearray(READ_CHUNK_BYTES))
        stream.write(_header(blob_name(digest), size_bytes))
        while remaining_bytes and (read_bytes := stored.readinto(buffer[:remaining_bytes])):
            hasher.update(buffer[:read_bytes])
            stream.write(buffer[:read_bytes])
            remaining_bytes -= read_bytes
            wrote(read_bytes)
        if not digest.matches(hasher):
            raise StorageError(f"{digest} is damaged in this cache; pull its image again through the mirror")
        stream.write(_padding(size_bytes))


# ---- reading


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in an archive, to be read before the next one is asked for."""

    name: str
    size_bytes: int
    content: IO[bytes]

    def pieces(self) -> Iterator[bytes]:
        """Yield what is in it.

        Raises:
            ArchiveInvalid: it ends too soon, or cannot be read.
        """
        remaining_bytes = self.size_bytes
        while remaining_bytes:
            with _translated():
                piece = self.content.read(min(_PIECE_BYTES, remaining_bytes))
            if not piece:
                raise ArchiveInvalid(f"the archive ends in the middle of {quote(self.name)}")
            remaining_bytes -= len(piece)
            yield piece


def read_archive(stream: io.BufferedReader, *, most_members: int = MOST_MEMBERS) -> Iterator[Member]:
    """Yield the plain files of a tar file, packed with gzip or not.

    Raises:
        ArchiveInvalid: it is no tar file, or holds what an image layout does not.
    """
    with _translated():
        is_packed = stream.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
        source = _Source(gzip.GzipFile(fileobj=stream) if is_packed else stream)
        # it takes anything that it can read from, and has nothing to close
        archive = tarfile.open(fileobj=source, mode="r|", bufsize=_PIECE_BYTES)  # type: ignore[call-overload]  # noqa: SIM115
    names: set[str] = set()
    for _ in range(most_members):
        found = _next(archive, source)
        if found is None:
            return
        name = _check(found, names)
        content = archive.extractfile(found) if found.isreg() else None
        if content is not None:
            member = Member(name, found.size, content)
            yield member
            _skip(member)
    raise ArchiveInvalid(f"the archive has more than {most_members} entries")


class _Source:
    """The bytes of a tar file, of which a header gets no more than the limit."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._stream = stream
        self.limit_bytes: int | None = _HEADERS_LIMIT_BYTES  # for what `tarfile.open` reads

    def read(self, size_bytes: int) -> bytes:
        if self.limit_bytes is not None:
            self.limit_bytes -= size_bytes
            if self.limit_bytes < 0:
                raise ArchiveInvalid("the archive has a header without end")
        return self._stream.read(size_bytes)


def _next(archive: tarfile.TarFile, source: _Source) -> tarfile.TarInfo | None:
    source.limit_bytes = _HEADERS_LIMIT_BYTES
    with _translated():
        found = archive.next()
    source.limit_bytes = None
    return found


def _check(found: tarfile.TarInfo, names: set[str]) -> str:
    """Return the name of a file or folder, and note it."""
    if not (found.isreg() or found.isdir()) or found.issparse() or found.size < 0:
        raise ArchiveInvalid(
            f"the archive has {quote(found.name)}, which is no plain file; an image layout has no other"
        )
    name = found.name.removeprefix("./")
    if name.startswith("/") or ".." in name.split("/"):
        raise ArchiveInvalid(f"the archive has {quote(found.name)}, a path that leads out of it")
    if found.isreg():
        if name in names:
            raise ArchiveInvalid(f"the archive has {quote(name)} twice")
        names.add(name)
    return name


def _skip(member: Member) -> None:
    """Read what the consumer has left: `tarfile` would do it where headers are expected."""
    with _translated():
        while member.content.read(_PIECE_BYTES):
            pass


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _NONSENSE as error:
        raise ArchiveInvalid(f"this is no usable tar file: {str(error) or type(error).__name__}") from error
    except RecursionError:
        raise ArchiveInvalid("the archive has a header without end") from None
