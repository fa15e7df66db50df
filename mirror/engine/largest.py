"""The largest repositories, counted anew when somebody looks and the last count is old."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.concurrency.supervisor import Supervisor
    from mirror.figures import Size

_SHOWN: Final = 10
_HOLDS_SECONDS: Final = 20.0
_SHARE: Final = 50  # counting takes at most one part in so many of the time
_PATIENCE_SECONDS: Final = 0.25


class Sizes(Protocol):
    """How much each repository holds."""

    async def largest(self, limit: int) -> Sequence[Size]:
        """Return the repositories that hold most, the largest first."""
        ...


class LargestRepositories:
    """What was counted last."""

    def __init__(self, sizes: Sizes, supervisor: Supervisor) -> None:
        """Count nothing yet."""
        self._sizes = sizes
        self._supervisor = supervisor
        self._known: Sequence[Size] = ()
        self._counting: asyncio.Task[None] | None = None
        self._next_at = 0.0

    async def get(self) -> Sequence[Size]:
        """Return what was counted last; a small cache's count is waited for."""
        if self._counting is None and time.monotonic() >= self._next_at:
            self._counting = self._supervisor.start(self._count(), name="count sizes")
        if self._counting is not None:
            await asyncio.wait([self._counting], timeout=_PATIENCE_SECONDS)
        return self._known

    async def _count(self) -> None:
        started = time.monotonic()
        try:
            self._known = await self._sizes.largest(_SHOWN)
        finally:
            ended = time.monotonic()
            self._next_at = ended + max(_HOLDS_SECONDS, (ended - started) * _SHARE)
            self._counting = None
