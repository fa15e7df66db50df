"""An upstream that is never asked: ``cache.offline`` puts it in the place of every registry's client."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NoReturn

from mirror.errors import BlobUnknown, ManifestUnknown, NameUnknown, NotFound
from mirror.policy import TagLifetime
from mirror.ports import UpstreamState

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Reference, Repository
    from mirror.oci.requests import Page
    from mirror.ports import BlobStream

_FOREVER: Final = TagLifetime(fresh_seconds=math.inf, stale_seconds=0.0)


class OfflineUpstream:
    """Refuses every question without opening a connection; its tags stay fresh for ever, since nobody can ask."""

    def __init__(self, name: str) -> None:
        """Take the name in the configuration."""
        self.name: Final = name
        self.tag_lifetime: Final = _FOREVER
        self.is_offline: Final = True
        self.parallel: Final = 1

    def is_at_reserve(self) -> bool:
        """Say no: nothing is counted."""
        return False

    def is_private(self, repository: Repository) -> bool:  # noqa: ARG002 - the answer is the same for each
        """Say no: no credential is shown."""
        return False

    def is_struggling(self) -> bool:
        """Say no: it has nothing to answer."""
        return False

    def note_wrong_content(self) -> None:
        """Need not: it sends nothing."""

    async def resolve(self, repository: Repository, reference: Reference) -> NoReturn:
        """Raise ManifestUnknown."""
        raise _refusal(ManifestUnknown, repository, str(reference))

    async def fetch_manifest(self, repository: Repository, reference: Reference) -> Manifest:
        """Raise ManifestUnknown."""
        raise _refusal(ManifestUnknown, repository, str(reference))

    async def find_blob_size(self, repository: Repository, digest: Digest) -> NoReturn:
        """Raise BlobUnknown."""
        raise _refusal(BlobUnknown, repository, str(digest))

    def open_blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        first: int = 0,  # noqa: ARG002 - no part of it is to be had either
        last: int | None = None,  # noqa: ARG002
    ) -> AbstractAsyncContextManager[BlobStream]:
        """Raise BlobUnknown."""
        raise _refusal(BlobUnknown, repository, str(digest))

    async def list_tags(self, repository: Repository, page: Page) -> NoReturn:  # noqa: ARG002 - of any page
        """Raise NameUnknown."""
        raise _refusal(NameUnknown, repository, "list of tags")

    async def list_referrers(self, repository: Repository, digest: Digest) -> NoReturn:
        """Raise NotFound."""
        raise _refusal(NotFound, repository, f"list of what refers to {digest}")

    async def search(self, query: str, limit: int | None) -> NoReturn:  # noqa: ARG002 - nothing is searched
        """Raise NotFound."""
        raise NotFound(f"this mirror is offline: {self.name} is not asked to search", was_asked=False)

    async def state(self) -> UpstreamState:
        """Return that nothing is known, and why."""
        return UpstreamState(
            name=self.name,
            is_up=None,
            credential="not used",
            is_refused=False,
            limit=None,
            remaining=None,
            wait_seconds=0.0,
            is_offline=True,
        )


def _refusal(kind: type[NotFound], repository: Repository, what: str) -> NotFound:
    return kind(f"this mirror is offline, and {what} of {repository} is not stored", was_asked=False)
