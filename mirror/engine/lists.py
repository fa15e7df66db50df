"""Lists: an upstream's tags, referrers and search, and the catalog of what is cached."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mirror.engine.answers import ListAnswer
from mirror.errors import ManifestInvalid, UpstreamError, UpstreamInvalid
from mirror.http.cache_status import Outcome
from mirror.oci.documents import load_listing, write_listing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.oci.requests import Page
    from mirror.ports import Clock, Index, Memory, Upstream

_DEADLINE_SECONDS = 2.0  # where something stored can stand in


@dataclass(frozen=True, slots=True)
class StoredList:
    """A list as an upstream gave it, and when (seconds since the epoch)."""

    body: bytes
    confirmed_at: float


class Lists:
    """Answers lists, mostly by passing them on."""

    def __init__(self, index: Index, referrers: Memory[StoredList], clock: Clock) -> None:
        """Join the parts; ``referrers`` is bounded by bytes."""
        self._index = index
        self._referrers = referrers
        self._clock = clock

    async def tags(self, upstream: Upstream, repository: Repository, name: str, page: Page) -> ListAnswer:
        """Return the upstream's tags under the client's own ``name``; the known ones while it cannot answer.

        Raises:
            NotFound, Denied: the upstream's answer.
            UpstreamError: it cannot answer, and no tag is known.
        """
        known = await self._index.tags_of(repository)
        if known and upstream.is_offline:
            return replace(_page_of(known, name, page), outcome=Outcome.HIT, stale_seconds=None)
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS if known else None):
                tags, has_more = await upstream.list_tags(repository, page)
        except (UpstreamError, TimeoutError):
            if not known:
                raise
            return _page_of(known, name, page)
        return ListAnswer(
            body=write_listing({"name": name, "tags": tags}),
            outcome=Outcome.BYPASS,
            has_more=has_more and bool(tags),
            last=tags[-1] if tags else None,
        )

    async def referrers(
        self, upstream: Upstream, repository: Repository, digest: Digest, artifact_type: str | None
    ) -> ListAnswer:
        """Return the manifests that point at a digest, remembered like a tag; one list for every ``artifact_type``.

        Raises:
            NotFound: the upstream has no such list; clients then ask for the tag that stands in for it.
            UpstreamError: it cannot answer, and nothing is remembered.
        """
        answer = await self._all_referrers(upstream, repository, digest)
        if artifact_type is None:
            return answer
        try:
            body = await asyncio.to_thread(_of_type, answer.body, artifact_type)
        except ManifestInvalid as error:
            raise UpstreamInvalid(f"{upstream.name}'s referrers: {error}", upstream=upstream.name) from error
        return replace(answer, body=body, is_filtered=True)

    async def _all_referrers(self, upstream: Upstream, repository: Repository, digest: Digest) -> ListAnswer:
        key = f"{repository}@{digest}"
        stored = await self._referrers.find(key)
        lifetime = upstream.tag_lifetime
        age_seconds = 0.0 if stored is None else self._clock() - stored.confirmed_at
        if stored is not None and age_seconds < lifetime.fresh_seconds:
            return ListAnswer(body=stored.body, outcome=Outcome.HIT)
        try:
            async with asyncio.timeout(None if stored is None else _DEADLINE_SECONDS):
                body = await upstream.list_referrers(repository, digest)
        except (UpstreamError, TimeoutError):
            if stored is None or age_seconds > lifetime.fresh_seconds + lifetime.stale_seconds:
                raise
            stale_seconds = int(age_seconds - lifetime.fresh_seconds)
            return ListAnswer(body=stored.body, outcome=Outcome.STALE, stale_seconds=stale_seconds)
        await self._referrers.put(key, StoredList(body, self._clock()), weight=len(body))
        return ListAnswer(body=body, outcome=Outcome.MISS if stored is None else Outcome.REVALIDATED)

    async def forget(self, repository: Repository, digest: Digest) -> None:
        """Drop from memory what points at a manifest."""
        await self._referrers.drop(f"{repository}@{digest}")

    async def forget_all(self) -> None:
        """Drop all from memory."""
        await self._referrers.clear()

    async def search(self, upstream: Upstream, query: str, limit: int | None) -> ListAnswer:
        """Return what the upstream's search finds.

        Raises:
            NotFound: it has none.
            UpstreamError: it cannot answer.
        """
        return ListAnswer(body=await upstream.search(query, limit), outcome=Outcome.BYPASS)

    async def catalog(self, page: Page, *, default_upstream: str, permits: Callable[[Repository], bool]) -> ListAnswer:
        """Return the repositories of which something is cached, named as a client of this mirror names them.

        Those that are not served any more are left out, so that a page may be short.
        """
        prefix = f"{default_upstream}/"
        if page.last is not None and "." not in page.last.partition("/")[0]:
            page = replace(page, last=prefix + page.last)  # a name of this list, where the default goes unnamed
        repositories, has_more = await self._index.repositories(page)
        names = [str(repository) for repository in repositories]
        shown = [str(repository).removeprefix(prefix) for repository in repositories if permits(repository)]
        body = write_listing({"repositories": shown})
        return ListAnswer(body=body, outcome=Outcome.HIT, has_more=has_more, last=names[-1] if names else None)


def _page_of(tags: Sequence[str], name: str, page: Page) -> ListAnswer:
    rest = [tag for tag in tags if page.last is None or tag > page.last]
    shown = rest if page.limit is None else rest[: page.limit]
    return ListAnswer(
        body=write_listing({"name": name, "tags": shown}),
        outcome=Outcome.STALE,
        has_more=0 < len(shown) < len(rest),
        last=shown[-1] if shown else None,
        stale_seconds=0,
    )


def _of_type(body: bytes, artifact_type: str) -> bytes:
    index = load_listing(body)
    found = index.get("manifests") or []
    wanted = [one for one in found if isinstance(one, dict) and one.get("artifactType") == artifact_type]
    return write_listing({**index, "manifests": wanted})
