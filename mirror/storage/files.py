"""Small file-system steps that must be durable, or cheap, or both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.oci.digest import Digest

READ_CHUNK_BYTES = 1024 * 1024
TEMPORARY_SUFFIX = ".put"  # of a file that has not got its name yet


class Layout:
    """Where things are in a cache folder; every path is built from a parsed digest, never from a client's text."""

    def __init__(self, root: Path) -> None:
        """Take the cache folder; it need not exist yet."""
        self.root = root
        self.blobs = root / "blobs"
        self.partial = root / "partial"
        self.index = root / "index"
        self.locks = root / "locks"

    def create(self) -> None:
        """Make the folders that are missing.

        Raises:
            OSError: the folder cannot be made or written.
        """
        for folder in (self.blobs, self.partial, self.index):
            folder.mkdir(parents=True, exist_ok=True)

    def blob(self, digest: Digest) -> Path:
        """Return the place of a stored blob."""
        return self.blobs / digest.algorithm / digest.encoded[:2] / digest.encoded

    def partial_blob(self, digest: Digest) -> Path:
        """Return the place of a blob that is being downloaded."""
        return self.partial / f"{digest.algorithm}-{digest.encoded}"


def rename_durably(source: Path, target: Path) -> None:
    """Move a file, already synced, to its final name, so that it is there after a power cut."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte: one ``write`` may take fewer."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
