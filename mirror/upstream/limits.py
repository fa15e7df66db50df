"""Rate limits: what an upstream tells of them, what it answers when one is reached, and how long to keep to that.

Docker Hub has two kinds of 429. Its pull limit is told in ``RateLimit-*`` and refuses only what it counts: the GET of a
manifest. Its limit against abuse is a bare 429 to everything. Others say how long to wait in ``Retry-After``, and GHCR
in the text of its error.

Source: https://docs.docker.com/docker-hub/usage/pulls/
Source: https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-07
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.http.retry_after import RETRY_AFTER_LIMIT_SECONDS, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNT: Final = re.compile(r"\s*([0-9]{1,12})\s*(?:;(.*))?", re.ASCII)
_WINDOW: Final = re.compile(r"(?:^|;)\s*w\s*=\s*([0-9]{1,9})", re.ASCII)
_GO_WAIT: Final = re.compile(r"retry[- ]after:?\s*((?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|μs|ms|s|m|h))+)", re.IGNORECASE)
_GO_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|μs|ms|s|m|h)")
_GO_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PULL_LIMIT_WORDS: Final = "pull rate limit"
_SHORTEST_WAIT_SECONDS: Final = 1.0
_FIRST_WAIT_SECONDS: Final = 5.0
_LONGEST_WAIT_SECONDS: Final = 300.0
_UNTOLD_PULL_WAIT_SECONDS: Final = 60.0
_REFUSALS_COUNTED: Final = 10
_LONGEST_PULL_WAIT_SECONDS: Final = 900.0


def read_limit(text: str | None) -> int | None:
    """Read the number of Docker Hub's ``100;w=21600``: requests, then the window in seconds."""
    match = None if text is None else _COUNT.fullmatch(text)
    return None if match is None else int(match[1])


def read_window_seconds(text: str | None) -> int | None:
    """Read the window of ``100;w=21600``."""
    match = None if text is None else _COUNT.fullmatch(text)
    window = None if match is None else _WINDOW.search(match[2] or "")
    return None if window is None else int(window[1])


def read_wait_seconds(text: str) -> float | None:
    """Read GHCR's ``retry-after: 985.86µs, allowed: 44000/minute``: a duration as Go writes it, in an error's text."""
    found = _GO_WAIT.search(_messages_in(text))
    if found is None:
        return None
    seconds = sum(float(number) * _GO_SECONDS[unit] for number, unit in _GO_PART.findall(found[1]))
    return min(seconds, RETRY_AFTER_LIMIT_SECONDS)


def _messages_in(text: str) -> str:
    """Return the messages of an error in the specification's form, or the text as it is."""
    try:
        return " ".join(str(error["message"]) for error in json.loads(text)["errors"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return text


@dataclass(slots=True)
class RateLimit:
    """What one endpoint has told, and until when it wants to be left alone; times are seconds since the epoch."""

    limit: int | None = None
    remaining: int | None = None
    window_seconds: int | None = None
    told_at: float = 0.0
    counted_until: float = 0.0
    everything_until: float = 0.0
    _refusals: int = 0

    def note_headers(self, headers: Mapping[str, str], now: float) -> bool:
        """Take note of ``RateLimit-Limit`` and ``RateLimit-Remaining``; return whether there were any."""
        limit = read_limit(headers.get("RateLimit-Limit"))
        remaining = read_limit(headers.get("RateLimit-Remaining"))
        if limit is None and remaining is None:
            return False
        self.limit, self.remaining, self.told_at = limit, remaining, now
        self.window_seconds = read_window_seconds(headers.get("RateLimit-Limit")) or self.window_seconds
        return True

    def note_success(self) -> None:
        """Take note that requests are answered."""
        self._refusals = 0

    def note_refusal(self, headers: Mapping[str, str], text: str, *, is_counted: bool, now: float) -> float:
        """Take note of a 429, and return for how many seconds it is kept to.

        Args:
            headers: of the answer.
            text: its body, or the beginning of it.
            is_counted: whether what was asked for is what a pull limit counts.
            now: seconds since the epoch.
        """
        told_seconds = parse_retry_after(headers.get("Retry-After"), now)
        if told_seconds is None:
            told_seconds = read_wait_seconds(text)
        is_pull_limit = is_counted and (self.remaining == 0 or _PULL_LIMIT_WORDS in text.lower())
        if told_seconds is None and is_pull_limit:
            told_seconds = self._seconds_for_one()
        return self.hold(told_seconds, now=now, is_counted_only=is_pull_limit)

    def hold(self, told_seconds: float | None, *, now: float, is_counted_only: bool = False) -> float:
        """Make no request, or none that is counted, for as long as was told, or ever longer where nothing was.

        Returns:
            For how many seconds.
        """
        if told_seconds is None:
            wait_seconds = min(_FIRST_WAIT_SECONDS * float(2**self._refusals), _LONGEST_WAIT_SECONDS)
        else:
            wait_seconds = max(told_seconds, _SHORTEST_WAIT_SECONDS)
        self._refusals = min(self._refusals + 1, _REFUSALS_COUNTED)
        if is_counted_only:
            self.counted_until = now + wait_seconds
        else:
            self.everything_until = now + wait_seconds
        return wait_seconds

    def wait_seconds(self, *, is_counted: bool, now: float) -> float:
        """Return for how long such a request is not to be made; 0 where it may be."""
        until = max(self.everything_until, self.counted_until) if is_counted else self.everything_until
        return max(0.0, until - now)

    def reserve_left(self, reserve: float, now: float) -> float | None:
        """Return how much is left of the reserve, which is a share of the limit, from 1 to 0; None above the reserve.

        What was told longer ago than the limit's window says nothing any more.
        """
        if self.limit is None or self.remaining is None or self.remaining > reserve * self.limit:
            return None
        if self.window_seconds is not None and now - self.told_at > self.window_seconds:
            return None
        return self.remaining / (reserve * self.limit) if self.remaining else 0.0

    def _seconds_for_one(self) -> float:
        """Return how long it takes until one more is allowed, if they come back one by one."""
        if not self.limit or self.window_seconds is None:
            return _UNTOLD_PULL_WAIT_SECONDS
        return min(max(self.window_seconds / self.limit, _SHORTEST_WAIT_SECONDS), _LONGEST_PULL_WAIT_SECONDS)
