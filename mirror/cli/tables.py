"""Tables, times and colours for people."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STEPS = ((86400, "days"), (3600, "hours"), (60, "minutes"))
_CODES = {"good": "32", "bad": "31;1", "dim": "2", "bold": "1"}


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write rows below each other, each column as wide as its widest cell."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def format_age(when: str) -> str:
    """Write how long ago a time (ISO 8601) was."""
    return format_seconds(time.time() - datetime.fromisoformat(when).timestamp())


def format_seconds(seconds: float) -> str:
    """Write how long ago something was: ``3 hours ago``."""
    for step, unit in _STEPS:
        if seconds >= 2 * step:
            return f"{int(seconds // step)} {unit} ago"
    return "just now" if seconds < _STEPS[-1][0] else "a minute ago"


def coloured(text: str, kind: str) -> str:
    """Colour a text on a terminal (``good``, ``bad``, ``dim``, ``bold``); elsewhere, or with NO_COLOR, leave it."""
    if not kind or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_CODES[kind]}m{text}\x1b[0m"
