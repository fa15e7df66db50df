"""The index, its lookups traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.storage.index import DiskIndex

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest
    from mirror.oci.reference import Reference, Repository, Tag
    from mirror.policy import StoredTag
    from mirror.ports import Clock, Held, Tracer
    from mirror.ports.tracer import Facts


class TracedIndex(DiskIndex):
    """Traces what a client may have to wait for; what is answered from memory asks no index."""

    def __init__(self, folder: Path, clock: Clock, tracer: Tracer) -> None:
        """Open the databases in ``folder``.

        Raises:
            OSError: the folder cannot be used.
        """
        super().__init__(folder, clock)
        self._tracer = tracer

    async def find_tag(self, repository: Repository, tag: Tag) -> StoredTag | None:
        """Return what the tag pointed at when it was last confirmed."""
        with self._tracer.part("index.find_tag", _facts(repository, tag)) as span:
            found = await super().find_tag(repository, tag)
            span.describe({"mirror.found": found is not None})
            return found

    async def find_held(self, repository: Repository, digest: Digest) -> Held | None:
        """Return how the repository is known to hold the content, if it is."""
        with self._tracer.part("index.find_held", _facts(repository, digest)) as span:
            found = await super().find_held(repository, digest)
            span.describe({"mirror.found": found is not None})
            return found


def _facts(repository: Repository, reference: Reference) -> Facts:
    return {
        "mirror.upstream": repository.upstream,
        "mirror.repository": repository.name,
        "mirror.reference": str(reference),
    }
