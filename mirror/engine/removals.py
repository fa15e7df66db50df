"""Forgets what another process has taken out of the store: each worker looks into the index's journal every second."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn, Protocol

if TYPE_CHECKING:
    from mirror.ports import Removal

_TICK_SECONDS = 1.0


class Journal(Protocol):
    """What was taken out, by any process."""

    async def begin_removals(self) -> int:
        """Read what is taken out from now on; return where that is."""
        ...

    async def removals(self, since: int) -> tuple[Removal | None, int]:
        """Return what was taken out next after a number, None where that is no longer known, and where to go on."""
        ...

    async def note_removals(self, number: int) -> None:
        """Say that this process has forgotten everything up to a number."""
        ...

    async def end_removals(self) -> None:
        """Read no more."""
        ...


class Memory(Protocol):
    """What is held in memory of content that may go."""

    async def forget(self, removal: Removal) -> None:
        """Forget what was removed."""
        ...

    async def forget_all(self) -> None:
        """Forget everything."""
        ...


class Removals:
    """Keeps one worker's memory from outliving what is stored."""

    def __init__(self, journal: Journal, memory: Memory) -> None:
        """Join the parts."""
        self._journal = journal
        self._memory = memory
        self._number = 0

    async def begin(self) -> None:
        """Begin, before anything is in memory."""
        self._number = await self._journal.begin_removals()

    async def end(self) -> None:
        """Let nobody wait for this process."""
        await self._journal.end_removals()

    async def run(self) -> NoReturn:
        """Follow the journal until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            await self.catch_up()

    async def catch_up(self) -> None:
        """Forget what was taken out since the last time, a little at a time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while await self._forget_next():
            await asyncio.sleep(loop.time() - began)
            began = loop.time()

    async def _forget_next(self) -> bool:
        removal, number = await self._journal.removals(self._number)
        if number == self._number:
            return False
        if removal is None:
            await self._memory.forget_all()
        else:
            await self._memory.forget(removal)
        self._number = number
        await self._journal.note_removals(number)
        return True
