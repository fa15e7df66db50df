"""What an upstream thinks of the credential that it is shown, so that a wrong one does not lock its account out.

    unproven ──accepted──► accepted ──refused──┐
        └────refused──► refused ◄──────────────┘
                          └─ after a pause, twice as long each time: unproven; at once: another credential

While it is unproven, one worker at a time shows it, and the others learn from the note that this one leaves.
"""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.credentials import Credential
    from mirror.ports import Clock, Locks, Notes, UpstreamObserver

log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS: Final = 300.0
_LONGEST_PAUSE_SECONDS: Final = 6 * 3600.0
_SURE_SECONDS: Final = 60.0  # for so long, one that was accepted is not asked about again


@dataclass(frozen=True, slots=True)
class Refused:
    """A credential that was refused: which, how often in a row, and until when it is left alone (since the epoch)."""

    fingerprint: str
    times: int
    until: float


class Standing:
    """The standing of one upstream's credential, in this process and through notes among its workers."""

    def __init__(self, upstream: str, *, notes: Notes, locks: Locks, observer: UpstreamObserver, clock: Clock) -> None:
        """Know nothing yet."""
        self._upstream = upstream
        self._notes = notes
        self._locks = locks
        self._observer = observer
        self._clock = clock
        self._accepted: tuple[str, float] | None = None
        self._refused: Refused | None = None
        self._turn = asyncio.Lock()  # the lock among workers does not tell the callers of one process apart

    @property
    def _key(self) -> str:
        return f"refused:{self._upstream}"

    def is_accepted(self, credential: Credential) -> bool:
        """Say whether it was accepted the last time that it was shown."""
        return self._accepted is not None and self._accepted[0] == credential.fingerprint

    def is_surely_accepted(self, credential: Credential) -> bool:
        """Say whether it was accepted just now, so that a refusal is about something else."""
        return (
            self._accepted is not None
            and self.is_accepted(credential)
            and self._clock() - self._accepted[1] < _SURE_SECONDS
        )

    def is_refused(self, credential: Credential) -> bool:
        """Say whether this process knows that it is to be left alone."""
        refused = self._refused
        return refused is not None and refused.fingerprint == credential.fingerprint and self._clock() < refused.until

    def describe(self, credential: Credential) -> str:
        """Say what became of it, in words."""
        if self._refused is not None and self.is_refused(credential):
            minutes = math.ceil((self._refused.until - self._clock()) / 60)
            return f"refused, left alone for {minutes} min"
        return "accepted" if self.is_accepted(credential) else "not shown yet"

    @asynccontextmanager
    async def trying(self, credential: Credential) -> AsyncIterator[bool]:
        """Yield whether it may be shown; while nobody knows whether it is good, to one at a time."""
        if self.is_accepted(credential):
            yield True
        elif self.is_refused(credential):
            yield False
        else:
            async with self._turn, self._locks.hold(f"credential:{self._upstream}"):
                yield self.is_accepted(credential) or not await self._is_noted(credential)

    def note_accepted(self, credential: Credential) -> None:
        """Take note that the upstream took it."""
        self._accepted = (credential.fingerprint, self._clock())
        if self._refused is not None:
            log.info("upstream.credential_accepted", upstream=self._upstream, place=credential.place)
            self._refused = None

    async def note_refused(self, credential: Credential) -> None:
        """Take note, loudly, that the upstream did not take it, and leave it alone for a while."""
        if self.is_refused(credential):
            return
        before = self._refused
        times = before.times + 1 if before is not None and before.fingerprint == credential.fingerprint else 1
        pause_seconds = min(_FIRST_PAUSE_SECONDS * 2 ** (times - 1), _LONGEST_PAUSE_SECONDS)
        self._accepted = None
        self._refused = Refused(credential.fingerprint, times, self._clock() + pause_seconds)
        self._observer.auth_failed(self._upstream)
        log.warning(
            "upstream.credential_refused",
            upstream=self._upstream,
            place=credential.place,
            next_try_seconds=pause_seconds,
        )
        await self._notes.put_note(self._key, json.dumps([credential.fingerprint, times, self._refused.until]))

    async def _is_noted(self, credential: Credential) -> bool:
        """Say whether another worker was refused with it, and take that over."""
        noted = _read(await self._notes.find_note(self._key))
        if noted is None or noted.fingerprint != credential.fingerprint:
            return False
        self._refused = noted
        return self.is_refused(credential)


def _read(text: str | None) -> Refused | None:
    """Read a note; whatever it is, it is no reason to fail."""
    try:
        fingerprint, times, until = json.loads(text or "null")
        return Refused(str(fingerprint), int(times), float(until))
    except (ValueError, TypeError):
        return None
