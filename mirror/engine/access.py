"""Whether private content may still be served: its upstream is asked again from time to time, once a repository.

Content that an upstream gave without any credential is anybody's, and by its digest it never changes: nobody asks about
it. Content that it gave for a credential is served for an hour after the upstream has last given or confirmed anything
of its repository; then the upstream says whether it still would. One that cannot answer, or is never asked, changes
nothing.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import structlog

from mirror.errors import UpstreamError
from mirror.policy import asking_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.oci.reference import Repository
    from mirror.ports import Clock, Index, Upstream

log = structlog.get_logger(__name__)

LINK_SECONDS: Final = 3600.0
_NOTED_SECONDS: Final = 300.0  # the index is told no more often
_PAUSE_SECONDS: Final = 30.0  # before an upstream that could not answer is asked again
_REPOSITORIES: Final = 50_000


class Access:
    """Remembers until when each repository's private content may be served without asking."""

    def __init__(self, index: Index, clock: Clock) -> None:
        """Join the parts."""
        self._index = index
        self._clock = clock
        self._until: OrderedDict[Repository, float] = OrderedDict()
        self._noted_at: dict[Repository, float] = {}

    def is_current(self, repository: Repository) -> bool:
        """Say whether its private content may be served without asking."""
        return self._clock() < self._until.get(repository, 0.0)

    async def note(self, upstream: Upstream, repository: Repository) -> None:
        """Take note that the upstream has just given or confirmed something of the repository."""
        if not upstream.is_private(repository):
            return
        now = self._clock()
        self._allow_until(repository, now + LINK_SECONDS)
        if now - self._noted_at.get(repository, 0.0) >= _NOTED_SECONDS:
            self._noted_at[repository] = now
            await self._index.put_confirmed(repository, now)

    async def ensure(
        self, upstream: Upstream, repository: Repository, confirm: Callable[[], Awaitable[object]]
    ) -> bool:
        """Make sure that private content may be served; return whether the upstream has just confirmed it.

        Raises:
            NotFound, Denied: the upstream would not give it any more.
        """
        if self.is_current(repository):
            return False
        now = self._clock()
        if upstream.is_offline:
            self._allow_until(repository, now + LINK_SECONDS)
            return False
        confirmed_at = await self._index.find_confirmed(repository)
        if confirmed_at is not None and now < confirmed_at + LINK_SECONDS:
            self._allow_until(repository, confirmed_at + LINK_SECONDS)
            return False
        try:
            async with asyncio.timeout(asking_seconds(is_struggling=upstream.is_struggling())):
                await confirm()
        except (UpstreamError, TimeoutError):
            log.warning("access.unconfirmed", upstream=upstream.name, repository=repository.name)
            self._allow_until(repository, now + _PAUSE_SECONDS)
            return False
        await self.note(upstream, repository)
        return True

    def _allow_until(self, repository: Repository, until: float) -> None:
        self._until[repository] = until
        self._until.move_to_end(repository)
        if len(self._until) > _REPOSITORIES:
            forgotten, _ = self._until.popitem(last=False)
            self._noted_at.pop(forgotten, None)
