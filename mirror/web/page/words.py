"""Figures as people read them."""

from __future__ import annotations

import time
from html import escape
from typing import Final

_LEAST_SHARE: Final = 0.001
_MINUTE_SECONDS: Final = 60
_HOUR_SECONDS: Final = 3600
_DAY_SECONDS: Final = 86400


def number(value: int) -> str:
    """Write ``12,345``."""
    return f"{value:,}"


def share(value: float | None) -> str:
    """Write ``87 %``; all and nothing are only said where they are so, and nothing is said of nothing."""
    if value is None:
        return "none yet"
    nearly = min(max(value, _LEAST_SHARE), 1 - _LEAST_SHARE) if 0 < value < 1 else value
    percent = f"{nearly:.0%}"
    return (f"{nearly:.1%}" if percent in {"0%", "100%"} and 0 < nearly < 1 else percent).replace("%", " %")


def duration(seconds: float) -> str:
    """Write ``45 s``, ``12 min``, ``3 h`` or ``5 d``."""
    for unit_seconds, unit in ((_DAY_SECONDS, "d"), (_HOUR_SECONDS, "h"), (_MINUTE_SECONDS, "min")):
        if seconds >= 2 * unit_seconds:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return f"{seconds:.0f} s"


def moment(at: float, now: float) -> str:
    """Write when something was as an element: the time of a day that is today, else the day too."""
    then = time.localtime(at)
    is_today = then[:3] == time.localtime(now)[:3]
    text = time.strftime("%H:%M:%S" if is_today else "%d %b, %H:%M", then)
    return f'<time datetime="{time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))}">{escape(text)}</time>'


def day(at: float) -> str:
    """Write ``24 Nov 2026``."""
    return time.strftime("%d %b %Y", time.localtime(at)).lstrip("0")
