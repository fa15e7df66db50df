"""Hashes all that is stored, slowly: bits that rot on the disk change nothing else by which they could be found.

A round takes a week or less, and begins a week after the last one began, where that ended early. It goes on where the
process before has stopped. How fast it reads is what the size of the cache asks for, within bounds.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import structlog

from mirror.errors import StorageError

if TYPE_CHECKING:
    from mirror.engine.doubts import Doubts
    from mirror.oci.digest import Digest
    from mirror.ports import Bookkeeping, Clock, Files, Locks, Notes

log = structlog.get_logger(__name__)

_ROUND_SECONDS: Final = 7 * 24 * 3600.0
_MARGIN: Final = 1.25  # the mirror does not always run
_SLOWEST_BYTES: Final = 1024 * 1024  # a second
_FASTEST_BYTES: Final = 32 * 1024 * 1024
_START_SECONDS: Final = 3.0  # the first moments are for who has waited for the start
_TURN_SECONDS: Final = 30.0
_REST: Final = 4.0  # times as long as a file took: very many small ones would keep a processor busy
_PLACE: Final = "verified to"


class Verification:
    """Goes through the files of the store, shelf by shelf."""

    def __init__(
        self, *, files: Files, accounts: Bookkeeping, notes: Notes, locks: Locks, doubts: Doubts, clock: Clock
    ) -> None:
        """Join the parts."""
        self._files = files
        self._accounts = accounts
        self._notes = notes
        self._locks = locks
        self._doubts = doubts
        self._clock = clock
        self._bytes_per_second: float = _SLOWEST_BYTES
        self._paused_seconds = 0.0

    async def run(self) -> None:
        """Verify round after round, until cancelled; wait while another worker does."""
        await asyncio.sleep(_START_SECONDS)
        async with self._locks.hold("verify", longest_wait_seconds=_TURN_SECONDS):
            while True:
                began, place = await self._next_round()
                await self._round(began, place)
                await self._note(began, "")

    async def _next_round(self) -> tuple[float, str]:
        """Wait until there is something to do; return when that round began, and up to which shelf it has come."""
        now = self._clock()
        try:
            began, place = json.loads(await self._notes.find_note(_PLACE) or "")
            began, place = float(began), str(place)
        except (ValueError, TypeError):
            return now, ""
        if not place and 0 <= now - began < _ROUND_SECONDS:
            await asyncio.sleep(began + _ROUND_SECONDS - now)
        return (began, place) if place else (self._clock(), "")

    async def _note(self, began: float, place: str) -> None:
        await self._notes.put_note(_PLACE, json.dumps([began, place]))

    async def _round(self, began: float, place: str) -> None:
        for shelf in await self._files.shelves():
            if shelf > place:
                await self._shelf(shelf)
                await self._note(began, shelf)

    async def _shelf(self, shelf: str) -> None:
        totals = await self._accounts.totals()
        wanted = totals.size_bytes * _MARGIN / _ROUND_SECONDS
        self._bytes_per_second = min(max(wanted, _SLOWEST_BYTES), _FASTEST_BYTES)
        for digest in sorted(await self._files.on_shelf(shelf), key=str):
            began, self._paused_seconds = asyncio.get_running_loop().time(), 0.0
            await self._check(digest)
            worked_seconds = asyncio.get_running_loop().time() - began - self._paused_seconds
            await asyncio.sleep(max(0.0, _REST * worked_seconds - self._paused_seconds))

    async def _check(self, digest: Digest) -> None:
        try:
            is_right = await self._files.check(digest, self._pace)
        except StorageError as error:
            log.error("store.failed", digest=str(digest), error=str(error))
            return
        if is_right is False:
            self._doubts.note(digest)

    async def _pace(self, size_bytes: int) -> None:
        """Wait as long as reading this much may take."""
        seconds = size_bytes / self._bytes_per_second
        self._paused_seconds += seconds
        await asyncio.sleep(seconds)
