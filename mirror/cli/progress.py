"""How far something has come, on one line of a terminal; nothing is shown anywhere else."""

from __future__ import annotations

import sys
import time

_SHOWN_AFTER_SECONDS = 0.1
_WIDTH = 30
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def format_bytes(size_bytes: float) -> str:
    """Write a size for people: ``1.5 GiB``."""
    value, unit = float(size_bytes), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


class ByteProgress:
    """One bar on standard error, where that is a terminal."""

    def __init__(self, title: str, total_bytes: int | None) -> None:
        """Begin; without a total only what has come is shown."""
        self._title = title
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._shown_at = self._started = time.monotonic()
        self._is_shown = sys.stderr.isatty()

    def add(self, size_bytes: int) -> None:
        """Note that so much more has come."""
        self._done_bytes += size_bytes
        now = time.monotonic()
        if self._is_shown and now - self._shown_at >= _SHOWN_AFTER_SECONDS:
            self._shown_at = now
            print(f"\r\x1b[K{self._line(now)}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _line(self, now: float) -> str:
        done, speed = self._done_bytes, self._done_bytes / max(now - self._started, 1e-9)
        told = f"{format_bytes(done)}, {format_bytes(speed)}/s"
        if not self._total_bytes:
            return f"{self._title}  {told}"
        filled = min(_WIDTH, done * _WIDTH // self._total_bytes)
        bar = "█" * filled + "░" * (_WIDTH - filled)
        return f"{self._title}  {bar}  {told} of {format_bytes(self._total_bytes)}"
