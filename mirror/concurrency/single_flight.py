"""One call per key, however many ask for it at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

    from mirror.concurrency.supervisor import Supervisor

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Shares the result of one running call among all who ask for the same key; remembers nothing afterwards."""

    def __init__(self, supervisor: Supervisor, *, name: str) -> None:
        """Let ``supervisor`` own the calls, so that a caller who gives up cancels nobody else's."""
        self._supervisor = supervisor
        self._name = name
        self._flights: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: K) -> bool:
        return key in self._flights

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> tuple[V, bool]:
        """Return the result and whether it was coalesced with an earlier call."""
        collapsed = key in self._flights
        return await asyncio.shield(self.start(key, work)), collapsed

    def start(self, key: K, work: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        """Return the running call, begun where there is none; it need not be awaited."""
        flight = self._flights.get(key)
        if flight is None:  # no await between look-up and insertion: nobody can slip in
            flight = self._supervisor.start(work(), name=f"{self._name} {key}")
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return flight
