"""The mirror at a glance: each worker tells every second what it counted and does; whoever is asked answers for all."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from mirror import __version__
from mirror.figures import (
    GENERATION_BITS,
    Overview,
    Transfer,
    UpstreamSight,
    WorkerReport,
    live_workers,
    merge_transfers,
    merge_upstreams,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from mirror.engine.downloads import Downloads
    from mirror.figures import Counted, History, Size
    from mirror.ports import Clock, Totals, UpstreamState

_TICK_SECONDS: Final = 1.0
_HEARTBEAT_SECONDS: Final = 15.0
_generations = itertools.count()  # a process that takes up another configuration reports for both, for a while


class Counter(Protocol):
    """What this worker has counted."""

    @property
    def up_at(self) -> Mapping[str, float]:
        """When upstreams last answered, or failed to."""
        ...

    @property
    def limit_at(self) -> Mapping[str, float]:
        """When upstreams last told their limits."""
        ...

    def take(self) -> Counted:
        """Return what was counted since the last time."""
        ...

    def give_back(self, counted: Counted) -> None:
        """Count again what could not be handed on."""
        ...


class Figures(Protocol):
    """The figures of all workers."""

    async def write(self, counted: Counted, report: WorkerReport) -> bool:
        """Add what a worker has counted, and replace what it said of itself; return whether that went well."""
        ...

    async def forget_worker(self, worker: int) -> None:
        """Take a worker's report away, which ends."""
        ...

    async def read(self, now: float) -> History:
        """Return the figures of all workers."""
        ...


class Observed(Protocol):
    """An upstream."""

    async def state(self) -> UpstreamState:
        """Say how things stand with it."""
        ...


class Largest(Protocol):
    """The repositories that hold most."""

    async def get(self) -> Sequence[Size]:
        """Return them, the largest first, as they were counted last."""
        ...


class Reporter:
    """Tells what this worker does, and shows what all of them have done."""

    def __init__(
        self,
        *,
        counter: Counter,
        figures: Figures,
        largest: Largest,
        downloads: Downloads,
        upstreams: Iterable[Observed],
        totals: Callable[[], Awaitable[Totals]],
        clock: Clock,
        limit_bytes: int,
    ) -> None:
        """Join the parts; ``totals`` tells what is stored."""
        self._counter = counter
        self._figures = figures
        self._downloads = downloads
        self._upstreams = upstreams
        self._totals = totals
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._worker = os.getpid() << GENERATION_BITS | next(_generations)
        self._rates = _Rates()
        self._largest = largest
        self._told: WorkerReport | None = None
        self._turn = asyncio.Lock()
        self._has_ended = False

    async def run(self) -> None:
        """Tell once a second, until the end, where there is something to tell."""
        while not self._has_ended:
            await asyncio.sleep(_TICK_SECONDS)
            await self.tell()

    async def end(self) -> None:
        """Tell for the last time."""
        await self.tell()
        self._has_ended = True
        await self._figures.forget_worker(self._worker)

    async def tell(self) -> WorkerReport:
        """Hand on what was counted, and what this worker does where that is news; return the latter."""
        async with self._turn:
            report = await self._report()
            if not self._has_ended:
                await self._hand_on(self._counter.take(), report)
            return report

    async def _hand_on(self, counted: Counted, report: WorkerReport) -> None:
        if not counted and not self._is_news(report):
            return
        if await self._figures.write(counted, report):
            self._told = report
        else:
            self._counter.give_back(counted)

    def _is_news(self, report: WorkerReport) -> bool:
        told = self._told
        if told is None or report.at - told.at > _HEARTBEAT_SECONDS or report.transfers:
            return True
        return replace(told, at=report.at) != report

    async def _report(self) -> WorkerReport:
        states = [
            UpstreamSight(
                state=state,
                up_at=self._counter.up_at.get(state.name, 0.0),
                limit_at=self._counter.limit_at.get(state.name, 0.0),
            )
            for state in [await one.state() for one in self._upstreams]
        ]
        transfers = self._rates.measure(self._downloads.transfers())
        return WorkerReport(worker=self._worker, at=self._clock(), transfers=transfers, upstreams=states)

    async def overview(self) -> Overview:
        """Return what all workers have done and do; of the others it is a second old at most."""
        own = await self.tell()
        history = await self._figures.read(own.at)
        reports = [own, *(one for one in history.reports if one.worker != own.worker)]
        return Overview(
            version=__version__,
            at=own.at,
            workers=live_workers(reports, own.at),
            history=history,
            totals=await self._totals(),
            limit_bytes=self._limit_bytes,
            transfers=merge_transfers(reports, own.at),
            upstreams=merge_upstreams(reports, own.at),
            largest=await self._largest.get(),
        )


class _Rates:
    """How fast downloads go, measured from one report to the next."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[float, int, float]] = {}

    def measure(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        now, before = time.monotonic(), self._before
        self._before = {one.digest: self._step(one, now, before.get(one.digest)) for one in transfers}
        return [replace(one, bytes_per_second=round(self._before[one.digest][2])) for one in transfers]

    def _step(self, one: Transfer, now: float, before: tuple[float, int, float] | None) -> tuple[float, int, float]:
        if before is None:
            return now, one.done_bytes, 0.0
        then, done_bytes, rate = before
        if now - then < _TICK_SECONDS / 2:  # too short to say
            return before
        latest = (one.done_bytes - done_bytes) / (now - then)
        return now, one.done_bytes, latest if not rate else (rate + latest) / 2
