"""``Retry-After``: how long a server wants to be left alone.

Spec: https://www.rfc-editor.org/rfc/rfc9110.html#section-10.2.3
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

RETRY_AFTER_LIMIT_SECONDS: Final = 86_400.0
"""A day: nobody means more."""

_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?")


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Return the seconds from ``now`` (Unix time) on: from 0 to a day, or ``None`` where the header makes no sense."""
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)  # thousands of digits are infinity here, not an error
    else:
        moment = _parse_date(text)
        if moment is None:
            return None
        seconds = moment - now
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT_SECONDS)


def _parse_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
