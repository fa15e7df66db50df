"""Small hot values in memory: tag answers, manifests, links, tokens; bounded, each with an end of its own."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Generic, TypeVar

from aiocache import SimpleMemoryCache

V = TypeVar("V")


class _Values(SimpleMemoryCache):  # type: ignore[misc]  # aiocache has no types
    """aiocache's values, readable without a coroutine: its ``get`` costs more than all else that a hit does here."""

    def peek(self, key: str) -> Any:  # noqa: ANN401 - whatever was kept
        """Return what ``get`` would: a value that has ended is no longer in the dictionary."""
        return self._cache.get(key)


class HotValues(Generic[V]):
    """Values by key, the least recently used dropped when their weights exceed the limit.

    aiocache keeps and ends the values; what it lacks is a bound, which the order of use here adds.
    """

    def __init__(self, *, limit: int) -> None:
        """Take the limit of the sum of weights: a number of entries, or of bytes, as ``put`` is told."""
        self._cache = _Values(timeout=0)  # by default every call is wrapped in a wait_for
        self._weights: OrderedDict[str, int] = OrderedDict()
        self._limit = limit
        self._total = 0

    def __len__(self) -> int:
        return len(self._weights)

    async def find(self, key: str) -> V | None:
        """Return the value, unless it has ended or was dropped."""
        return self.peek(key)

    def peek(self, key: str) -> V | None:
        """Return the same at once."""
        value: V | None = self._cache.peek(key)
        if value is not None and key in self._weights:
            self._weights.move_to_end(key)
        return value

    async def put(self, key: str, value: V, *, ttl_seconds: float | None = None, weight: int = 1) -> None:
        """Keep a value for ``ttl_seconds`` (None: until it is dropped)."""
        if ttl_seconds is not None and ttl_seconds <= 0:
            await self.drop(key)
            return
        self._total += weight - self._weights.pop(key, 0)
        self._weights[key] = weight
        await self._cache.set(key, value, ttl=ttl_seconds)
        while self._total > self._limit:
            await self.drop(next(iter(self._weights)))

    async def clear(self) -> None:
        """Forget everything."""
        self._weights.clear()
        self._total = 0
        await self._cache.clear()

    async def drop(self, key: str) -> None:
        """Forget a value."""
        weight = self._weights.pop(key, None)
        if weight is None:  # as of most of what is evicted
            return
        self._total -= weight
        await self._cache.delete(key)
