"""Downloads as their files tell of them: what is under way, in whatever process, and what nobody goes on with."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING, Final

import structlog

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.ports import Claim, Underway
from mirror.storage.files import ORIGIN_SUFFIX, TEMPORARY_SUFFIX, open_file, remove_quietly
from mirror.storage.partial import PartialFile, remove_partial
from mirror.storage.parts import PART_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.storage.files import Layout

log = structlog.get_logger(__name__)

_ABANDONED_SECONDS: Final = 24 * 3600.0


def list_underway(layout: Layout) -> Sequence[Underway]:
    """Return the blobs of which there is a part, and from where, the one with the most to come first.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [one for partial, path in _partials(layout) if (one := _describe(partial, path)) is not None]
    return sorted(found, key=lambda one: one.arrived_bytes - (one.origin.size_bytes or 0))


def remove_leftovers(layout: Layout, *, before: float) -> Mapping[str, Sequence[int]]:
    """Remove what nobody goes on with and nobody has changed since ``before`` (since the epoch).

    That is downloads without a writer, what was put beside others under a name of its own for a moment, and databases
    that were put aside.

    Returns:
        The sizes of the files, by kind.

    Raises:
        OSError: a folder cannot be read.
    """
    aside = [path for folder in (layout.index, layout.root) for path in folder.glob("*.damaged-*")]
    temporary = [path for path in layout.partial.iterdir() if path.suffix == TEMPORARY_SUFFIX]
    return {
        "downloads": [size for partial, path in _partials(layout) for size in _give_up(partial, path, before)],
        "temporary": [size for path in temporary if (size := _remove(path, before)) is not None],
        "databases": [size for path in aside if (size := _remove(path, before)) is not None],
    }


def _give_up(partial: PartialFile, path: Path, before: float) -> Iterator[int]:
    """Remove a download that nobody writes; yield its size."""
    if os.fstat(partial.fileno()).st_mtime < before and partial.claim() is Claim.WRITER:
        yield partial.written_bytes() + _parts_bytes(path)
        remove_partial(path)


def _remove(path: Path, before: float) -> int | None:
    """Remove an old file or folder; return its size, None where it is not old or not to be removed."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        if found.st_mtime >= before:
            return None
        if not stat.S_ISDIR(found.st_mode):
            path.unlink()
            return found.st_size
        size_bytes = sum(one.lstat().st_size for one in path.rglob("*"))
        shutil.rmtree(path)
        return size_bytes
    return None


def sweep(layout: Layout, *, now: float) -> None:
    """Remove what processes that were killed have left and nobody can go on with; other workers may be busy.

    What was begun and not gone on with for a day goes too: its upstream may not have it any more.

    Raises:
        OSError: the folder cannot be read, or the disk lets nothing go.
    """
    before = now - _ABANDONED_SECONDS
    for path in list(layout.partial.iterdir()):
        if path.suffix == TEMPORARY_SUFFIX:
            _remove(path, before)
        elif path.suffix in {ORIGIN_SUFFIX, PART_SUFFIX} and not path.with_name(path.name.partition(".")[0]).exists():
            remove_quietly(path)
    for partial, path in _partials(layout):
        is_known = partial.read_announcement() is not None
        for size_bytes in _give_up(partial, path, before if is_known else float("inf")):
            log.info("download.abandoned", digest=path.name.replace("-", ":", 1), size_bytes=size_bytes)


def remove_temporary_files_of(layout: Layout, process: int) -> None:
    """Remove the files that a process which has ended was writing."""
    for path in layout.partial.glob(f"{process}-*{TEMPORARY_SUFFIX}"):
        remove_quietly(path)


def _partials(layout: Layout) -> Iterator[tuple[PartialFile, Path]]:
    """Open the download files that are there, one after another; none is made."""
    for path in layout.partial.iterdir():
        with contextlib.suppress(DigestInvalid, OSError):
            digest = Digest.parse(path.name.replace("-", ":", 1))
            descriptor = open_file(path, os.O_RDWR)
            with contextlib.closing(PartialFile(descriptor, path, layout.blob(digest), digest)) as partial:
                yield partial, path


def _describe(partial: PartialFile, path: Path) -> Underway | None:
    origin = partial.read_announcement()
    if origin is None:
        return None
    digest = Digest.parse(path.name.replace("-", ":", 1))
    return Underway(digest=digest, origin=origin, arrived_bytes=partial.written_bytes() + _parts_bytes(path))


def _parts_bytes(path: Path) -> int:
    size_bytes = 0
    for part in path.parent.glob(f"{path.name}.*{PART_SUFFIX}"):
        with contextlib.suppress(OSError):
            size_bytes += part.stat().st_size
    return size_bytes
