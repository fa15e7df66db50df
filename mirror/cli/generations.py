"""One process's mirrors: the one that serves, and earlier ones whose transfers still run.

A changed configuration is a new mirror beside the old one, on the same sockets and the same cache, as another worker
would be. So it is taken up whole or not at all, and nothing that runs notices. The old one accepts nothing more and
ends with its last transfer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from mirror.app import running
from mirror.cli import heap
from mirror.concurrency.supervisor import Supervisor
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from types import TracebackType

    from mirror.app import Counters
    from mirror.cli.reload import Settings
    from mirror.web.doors import Doors


class Generations:
    """Serves by the newest configuration until the block ends, and then gives transfers the configured grace."""

    def __init__(self, doors: Doors, counters: Counters) -> None:
        """Take the sockets to accept from, which are closed at the end, and what counts over all generations."""
        self._doors = doors
        self._counters = counters
        self._supervisor = Supervisor(expected=MirrorError)
        self._lives: set[asyncio.Task[None]] = set()
        self._newest_retires = asyncio.Event()
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._doors.close()
        self._stopped.set()
        self._newest_retires.set()
        await asyncio.gather(*self._lives)

    async def begin(self, settings: Settings) -> None:
        """Serve by this configuration from now on; one that cannot be used changes nothing.

        Raises:
            MirrorError, OSError: it cannot be used.
        """
        began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        retires = asyncio.Event()
        life = self._supervisor.start(self._live(settings, began, retires), name="mirror")
        await asyncio.wait({life, began}, return_when=asyncio.FIRST_COMPLETED)
        if not began.done():
            await life
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        self._newest_retires.set()
        self._newest_retires = retires
        heap.settle()

    async def _live(self, settings: Settings, began: asyncio.Future[None], retires: asyncio.Event) -> None:
        with self._doors.duplicated() as doors:
            serving = running(
                settings.config,
                doors,
                self._counters,
                tls=settings.tls,
                htpasswd=settings.htpasswd,
                since=settings.since,
            )
            async with serving as servers:
                began.set_result(None)
                await retires.wait()
                await servers.drain(until=self._stopped)
