"""A clock that a test can move."""

from __future__ import annotations

import time


class MovableClock:
    """The real time plus what `advance` added."""

    def __init__(self) -> None:
        self._offset_seconds = 0.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self._offset_seconds

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._offset_seconds += seconds
