"""What a tag points at: fresh from memory, revalidated within a deadline, stale while the upstream cannot say."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import structlog

from mirror.errors import Denied, NotFound, RateLimited, UpstreamError
from mirror.http.cache_status import Outcome
from mirror.policy import Fetch, Revalidate, Serve, StoredTag, asking_seconds, decide

if TYPE_CHECKING:
    from mirror.concurrency.single_flight import SingleFlight
    from mirror.engine.access import Access
    from mirror.engine.manifests import Manifests
    from mirror.engine.refusals import Refusals
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.reference import Repository, Tag
    from mirror.policy import Decision, asking_seconds
    from mirror.ports import Clock, Index, Locks, Memory, Upstream

log = structlog.get_logger(__name__)

_REREAD_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Resolved:
    """One snapshot of a tag, for HEAD and GET alike."""

    descriptor: Descriptor
    outcome: Outcome
    ttl_seconds: int | None = None


class Tags:
    """Resolves tags, each asked for once at a time, whatever the number of requests and workers."""

    def __init__(
        self,
        *,
        index: Index,
        memory: Memory[StoredTag],
        locks: Locks,
        flights: SingleFlight[str, StoredTag],
        manifests: Manifests,
        refusals: Refusals,
        access: Access,
        clock: Clock,
    ) -> None:
        """Join the parts."""
        self._index = index
        self._memory = memory
        self._locks = locks
        self._flights = flights
        self._manifests = manifests
        self._refusals = refusals
        self._access = access
        self._clock = clock
        self._overdue: set[str] = set()

    async def resolve(self, upstream: Upstream, repository: Repository, tag: Tag, *, anew: bool = False) -> Resolved:
        """Say what a tag points at; with ``anew`` the upstream is asked, however fresh what is known is.

        Raises:
            NotFound, Denied, Remembered: the upstream's answer, now or a moment ago.
            UpstreamError: it cannot answer, and nothing is stored that could stand in.
        """
        key = f"{repository}:{tag}"
        decision = self._decide(key, await self._memory.find(key), upstream)
        if not isinstance(decision, Serve):  # what another worker was told since counts for more
            decision = self._decide(key, await self._recall(key, upstream, repository, tag), upstream)
        since = -math.inf
        if anew and isinstance(decision, Serve) and not upstream.is_offline:
            since, decision = self._clock(), Revalidate(decision.stored, may_serve_stale=True, stale_for_seconds=0)
        match decision:
            case Serve():
                return Resolved(decision.stored.descriptor, Outcome.HIT, decision.ttl_seconds)
            case Fetch():
                fetched, was_collapsed = await self._ask(key, upstream, repository, tag, since)
                return Resolved(fetched.descriptor, Outcome.COALESCED if was_collapsed else Outcome.MISS)
            case Revalidate():
                return await self._revalidate(key, decision, upstream, repository, tag, since)
            case _:
                assert_never(decision)

    async def forget(self, repository: Repository, tag: Tag) -> None:
        """Drop a tag from memory whose manifest is no longer stored."""
        await self._memory.drop(f"{repository}:{tag}")

    async def forget_all(self) -> None:
        """Drop all tags from memory."""
        await self._memory.clear()

    def peek(self, upstream: Upstream, repository: Repository, tag: Tag) -> Decision:
        """Decide on what is in memory alone."""
        key = f"{repository}:{tag}"
        return self._decide(key, self._memory.peek(key), upstream)

    def _decide(self, key: str, stored: StoredTag | None, upstream: Upstream) -> Decision:
        return decide(stored, now=self._clock(), lifetime=upstream.tag_lifetime, key=key)

    async def _recall(self, key: str, upstream: Upstream, repository: Repository, tag: Tag) -> StoredTag | None:
        await self._refusals.check(key)
        stored = await self._index.find_tag(repository, tag)
        if stored is not None:
            # an import may move the tag of an offline mirror, where nothing else would lead to a second look
            await self._memory.put(key, stored, ttl_seconds=_REREAD_SECONDS if upstream.is_offline else None)
        return stored

    async def _revalidate(
        self, key: str, decision: Revalidate, upstream: Upstream, repository: Repository, tag: Tag, since: float
    ) -> Resolved:
        before = decision.stored.descriptor
        try:
            async with asyncio.timeout(self._deadline_seconds(key, decision, upstream)):
                confirmed, _ = await self._ask(key, upstream, repository, tag, since)
        except (UpstreamError, TimeoutError) as error:
            if not decision.may_serve_stale:
                raise
            if isinstance(error, TimeoutError) and key in self._flights:
                self._overdue.add(key)  # the question goes on behind the scenes, once
            log.warning("tag.served_stale", upstream=upstream.name, repository=repository.name, reference=str(tag))
            return Resolved(before, Outcome.STALE, -decision.stale_for_seconds)
        unchanged = confirmed.descriptor.digest == before.digest
        return Resolved(confirmed.descriptor, Outcome.REVALIDATED if unchanged else Outcome.MISS)

    def _deadline_seconds(self, key: str, decision: Revalidate, upstream: Upstream) -> float | None:
        if not decision.may_serve_stale:
            return None
        if key in self._overdue:
            return 0.0
        return asking_seconds(is_struggling=upstream.is_struggling())

    async def _ask(
        self, key: str, upstream: Upstream, repository: Repository, tag: Tag, since: float
    ) -> tuple[StoredTag, bool]:
        async def refresh() -> StoredTag:
            try:
                return await self._refresh(key, upstream, repository, tag, since)
            finally:
                self._overdue.discard(key)

        return await self._flights.run(key, refresh)

    async def _refresh(self, key: str, upstream: Upstream, repository: Repository, tag: Tag, since: float) -> StoredTag:
        """Ask the upstream, unless somebody has ``since`` then, and what was said is fresh."""
        async with self._locks.hold(f"tag:{key}"):
            stored = await self._index.find_tag(repository, tag)
            decision = self._decide(key, stored, upstream)
            if isinstance(decision, Serve) and decision.stored.confirmed_at >= since:  # while this one waited
                await self._memory.put(key, decision.stored)
                return decision.stored
            try:
                descriptor = await upstream.resolve(repository, tag)
                if descriptor is None:
                    _spare_the_reserve(upstream, repository, stored)
                    descriptor = await self._manifests.fetch_by_tag(upstream, repository, tag)
                elif stored is not None and descriptor.digest != stored.descriptor.digest:
                    # a tag moves when its new manifest is here: Docker Hub's limit spares HEAD and refuses GET
                    _ = await self._manifests.get(upstream, repository, descriptor.digest)
            except (NotFound, Denied) as error:
                await self._memory.drop(key)
                await self._index.drop_tag(repository, tag)
                await self._refusals.remember(key, error)
                raise
            await self._access.note(upstream, repository)
            stored = StoredTag(descriptor=descriptor, confirmed_at=self._clock())
            await self._index.put_tag(repository, tag, stored)
            await self._memory.put(key, stored)
            return stored


def _spare_the_reserve(upstream: Upstream, repository: Repository, stored: StoredTag | None) -> None:
    """Ask nothing that is counted about a tag that is cached, while little is left of the upstream's limit."""
    if stored is not None and upstream.is_at_reserve():
        message = (
            f"{upstream.name}'s limit is nearly reached: {repository.name} is not asked about by a counted request"
        )
        raise RateLimited(message, upstream=upstream.name, retry_after_seconds=None)
