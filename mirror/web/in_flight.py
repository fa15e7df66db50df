"""How much each address has under way: its open connections, and its requests that came through a trusted proxy."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mirror.errors import TooManyRequests

if TYPE_CHECKING:
    from collections.abc import Iterator

_RETRY_SECONDS: Final = 1.0


class InFlight:
    """Counts up to a limit; what exceeds it counts too, until it has been refused."""

    def __init__(self, limit: int) -> None:
        """Take how much one address may have."""
        self._limit = limit
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def enter(self, address: str) -> None:
        """Count one more."""
        self._counts[address] = self._counts.get(address, 0) + 1

    def leave(self, address: str) -> None:
        """Count one less."""
        left = self._counts.pop(address) - 1
        if left:
            self._counts[address] = left

    def exceeds(self, address: str) -> bool:
        """Tell whether an address has more than it may."""
        return self._counts.get(address, 0) > self._limit

    def check(self, address: str) -> None:
        """Refuse what an address has too much.

        Raises:
            TooManyRequests: it has.
        """
        if self.exceeds(address):
            message = f"more than {self._limit} connections or requests from this address at a time"
            raise TooManyRequests(message, retry_after_seconds=_RETRY_SECONDS)

    @contextmanager
    def request(self, address: str) -> Iterator[None]:
        """Count one request while the block runs.

        Raises:
            TooManyRequests: the address has enough under way.
        """
        self.enter(address)
        try:
            self.check(address)
            yield
        finally:
            self.leave(address)
