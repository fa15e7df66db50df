"""Last uses, gathered in memory so that a hit writes nothing, and handed to the accounts in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository


class Usage:
    """What this process has served since the last batch."""

    def __init__(self) -> None:
        """Begin empty."""
        self._manifests: dict[str, tuple[Repository, Digest]] = {}
        self._blobs: set[Digest] = set()

    def note_manifest(self, key: str, repository: Repository, digest: Digest) -> None:
        """Note that somebody asked for a manifest, or for the tag that points at it."""
        self._manifests[key] = (repository, digest)

    def note_blob(self, digest: Digest) -> None:
        """Note that somebody asked for a blob."""
        self._blobs.add(digest)

    def take(self) -> tuple[set[tuple[Repository, Digest]], set[Digest]]:
        """Return the manifests and the blobs that were asked for, and begin anew."""
        manifests, blobs = self._manifests, self._blobs
        self._manifests, self._blobs = {}, set()
        return set(manifests.values()), blobs
