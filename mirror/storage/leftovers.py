"""Downloads as their files tell of them: what is under way, in whatever process, and what nobody goes on with."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.ports import Underway
from mirror.storage.files import open_file
from mirror.storage.partial import PartialFile
from mirror.storage.parts import PART_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mirror.storage.files import Layout


def list_underway(layout: Layout) -> Sequence[Underway]:
    """Return the blobs of which there is a part, and from where, the one with the most to come first.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [one for partial, path in _partials(layout) if (one := _describe(partial, path)) is not None]
    return sorted(found, key=lambda one: one.arrived_bytes - (one.origin.size_bytes or 0))


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
    parts_bytes = 0
    for part in path.parent.glob(f"{path.name}.*{PART_SUFFIX}"):
        with contextlib.suppress(OSError):
            parts_bytes += part.stat().st_size
    digest = Digest.parse(path.name.replace("-", ":", 1))
    return Underway(digest=digest, origin=origin, arrived_bytes=partial.written_bytes() + parts_bytes)
