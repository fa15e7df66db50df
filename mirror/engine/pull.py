"""The cache as its clients see it: manifests by tag or digest, blobs, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.engine.answers import ManifestAnswer
from mirror.http.cache_status import Outcome
from mirror.oci.reference import Tag
from mirror.policy import Serve

if TYPE_CHECKING:
    from mirror.engine.blobs import Blobs
    from mirror.engine.lists import Lists
    from mirror.engine.manifests import LoadedManifest, Manifests
    from mirror.engine.tags import Tags
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Reference, Repository
    from mirror.ports import Removal, Upstream

_FETCHED = frozenset({Outcome.MISS, Outcome.COALESCED})


class PullThrough:
    """One cache in front of many upstreams."""

    def __init__(self, tags: Tags, manifests: Manifests, blobs: Blobs, lists: Lists) -> None:
        """Join the parts."""
        self._tags = tags
        self._manifests = manifests
        self.blobs = blobs
        self.lists = lists

    def peek_manifest(
        self, upstream: Upstream, repository: Repository, reference: Reference
    ) -> tuple[LoadedManifest, int | None] | None:
        """Return, where ``manifest`` would be a hit and need not wait, the manifest and what its tag has left."""
        ttl_seconds = None
        if isinstance(reference, Tag):
            decision = self._tags.peek(upstream, repository, reference)
            if not isinstance(decision, Serve):
                return None
            reference, ttl_seconds = decision.stored.descriptor.digest, decision.ttl_seconds
        loaded = self._manifests.peek(repository, reference)
        return None if loaded is None else (loaded, ttl_seconds)

    async def manifest(
        self,
        upstream: Upstream,
        repository: Repository,
        reference: Reference,
        *,
        with_body: bool,
        anew: bool = False,
    ) -> ManifestAnswer:
        """Answer for a manifest; a tag's HEAD needs no body and fetches none. ``anew``: ask where a tag points now.

        Raises:
            NotFound, Denied, Remembered: the upstream's answer, now or a moment ago.
            UpstreamError: it is not stored and cannot be fetched.
        """
        if not isinstance(reference, Tag):
            loaded, outcome = await self._manifests.get(upstream, repository, reference)
            return ManifestAnswer(descriptor=loaded.descriptor, outcome=outcome, body=loaded.body)
        tag = await self._tags.resolve(upstream, repository, reference, anew=anew)
        if not with_body:
            self._manifests.note_use(repository, tag.descriptor.digest)
            return ManifestAnswer(descriptor=tag.descriptor, outcome=tag.outcome, ttl_seconds=tag.ttl_seconds)
        loaded, outcome = await self._manifests.get(upstream, repository, tag.descriptor.digest)
        return ManifestAnswer(
            descriptor=loaded.descriptor,
            outcome=outcome if outcome in _FETCHED else tag.outcome,
            body=loaded.body,
            ttl_seconds=tag.ttl_seconds,
        )

    async def forget(self, removal: Removal) -> None:
        """Drop from memory what is no longer stored."""
        for repository, digest in removal.links:
            await self._manifests.forget(repository, digest)
            await self.blobs.forget(repository, digest)
            await self.lists.forget(repository, digest)
        for repository, tag in removal.tags:
            await self._tags.forget(repository, tag)

    async def forget_all(self) -> None:
        """Drop everything from memory: what is no longer stored is not known."""
        for part in (self._tags, self._manifests, self.blobs, self.lists):
            await part.forget_all()

    async def account(self, repository: Repository, digest: Digest) -> None:
        """Account for a manifest that was served and is not accounted for, or forget it where it is gone."""
        await self._manifests.account(repository, digest)
