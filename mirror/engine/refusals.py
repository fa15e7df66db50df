"""Refusals (401, 403, 404), remembered for seconds: a tag that is not there is asked for again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.engine.answers import Remembered

if TYPE_CHECKING:
    from mirror.errors import Denied, NotFound
    from mirror.ports import Clock, Memory


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was answered, and until when (seconds since the epoch) it is answered again without asking."""

    error: NotFound | Denied
    until: float


class Refusals:
    """The negative answers of this process, in memory only: a client can ask for names without end."""

    def __init__(self, memory: Memory[Refusal], clock: Clock, *, ttl_seconds: float) -> None:
        """Remember each for ``ttl_seconds``; 0 remembers nothing."""
        self._memory = memory
        self._clock = clock
        self._ttl_seconds = ttl_seconds
        self._generation = 0

    async def check(self, key: str) -> None:
        """Raise what was answered for this key a moment ago.

        Raises:
            Remembered: with the first answer in it.
        """
        refusal = await self._memory.find(self._key(key))
        if refusal is None:
            return
        remaining_seconds = refusal.until - self._clock()
        if remaining_seconds > 0:
            raise Remembered(refusal.error, ttl_seconds=int(remaining_seconds)) from refusal.error

    async def remember(self, key: str, error: NotFound | Denied) -> None:
        """Keep an upstream's refusal."""
        if self._ttl_seconds > 0:
            # a new one: the one just raised holds the frames of whoever it went through
            refusal = Refusal(type(error)(str(error)), self._clock() + self._ttl_seconds)
            await self._memory.put(self._key(key), refusal, ttl_seconds=self._ttl_seconds)

    def forget_all(self) -> None:
        """Ask anew about everything: a credential has changed."""
        self._generation += 1

    def _key(self, key: str) -> str:
        return f"{self._generation}:{key}"
