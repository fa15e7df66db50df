"""What happened to a request, in one word and as RFC 9211's ``Cache-Status``.

Spec: https://www.rfc-editor.org/rfc/rfc9211.html#section-2
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

_OK: Final = 200
_PARTIAL_CONTENT: Final = 206


class Outcome(StrEnum):
    """What happened to a request: the same word as a metric's label and as a log's key."""

    HIT = "hit"
    """Stored and fresh."""
    REVALIDATED = "revalidated"
    """Stored, and the upstream confirmed it just now."""
    STALE = "stale"
    """Stored, and the upstream could not answer."""
    MISS = "miss"
    """Fetched, and being stored."""
    COALESCED = "coalesced"
    """Joined a fetch that was already running."""
    BYPASS = "bypass"
    """Passed through without storing."""
    NEGATIVE = "negative"
    """A remembered refusal: 404, or 403."""


_PARAMETERS: Final = {
    Outcome.HIT: "hit{ttl}",
    Outcome.REVALIDATED: "fwd=stale; fwd-status={status}",
    Outcome.STALE: "hit{ttl}; detail=stale-if-error",
    Outcome.MISS: "fwd=uri-miss; fwd-status={status}{stored}",
    Outcome.COALESCED: "fwd=uri-miss; collapsed",
    Outcome.BYPASS: "fwd=bypass",
    Outcome.NEGATIVE: "hit{ttl}; detail=negative",
}


def cache_status(outcome: Outcome, *, ttl_seconds: int | None = None, forward_status: int | None = None) -> str:
    """Write the header for an outcome.

    Args:
        outcome: what happened.
        ttl_seconds: for how long the answer is still fresh; below zero, for how long it has been stale. Not given
            for content by digest, which is always fresh.
        forward_status: what the upstream answered; 200 where not given. A miss is ``stored`` only if it was a success.
    """
    status = _OK if forward_status is None else forward_status
    ttl = "" if ttl_seconds is None else f"; ttl={ttl_seconds}"
    stored = "; stored" if status in {_OK, _PARTIAL_CONTENT} else ""
    return "mirror; " + _PARAMETERS[outcome].format(status=status, ttl=ttl, stored=stored)
