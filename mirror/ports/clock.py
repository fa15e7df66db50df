"""What tells the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    pass


class Clock(Protocol):
    """Seconds since the epoch; tests move it."""

    def __call__(self) -> float:
        """Return the time now."""
        ...
