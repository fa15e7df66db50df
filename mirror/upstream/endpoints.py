"""The endpoints of one upstream: which to try first, and how patiently."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.ports import Clock

_STRUGGLING_SECONDS = 30.0
_ANSWER_SECONDS = 10.0  # for the head of an answer: containerd gives a mirror 30 s, and there may be two attempts
_SHORT_ANSWER_SECONDS = 2.0


@dataclass(slots=True)
class Endpoint:
    """One place that answers for an upstream, and when it last failed to answer in time."""

    url: URL
    struggling_until: float = field(default=0.0)


class Endpoints:
    """An upstream's endpoints in the operator's order, those that struggle last.

    One that struggles is still tried, only with little patience: it is served again the moment it recovers.
    """

    def __init__(self, urls: Sequence[str], clock: Clock, *, read_timeout_seconds: float) -> None:
        """Take absolute URLs, in order of preference."""
        self._endpoints = [Endpoint(URL(url)) for url in urls]
        self._clock = clock
        self._patience_seconds = min(read_timeout_seconds, _ANSWER_SECONDS)

    def in_order(self) -> list[Endpoint]:
        """Return what to try, first to last."""
        now = self._clock()
        return sorted(self._endpoints, key=lambda endpoint: now < endpoint.struggling_until)

    @property
    def patience_seconds_outside(self) -> float:
        """How long to wait for a service that is not one of these endpoints."""
        return self._patience_seconds

    def patience_seconds(self, endpoint: Endpoint) -> float:
        """Return how long to wait for the head of an answer."""
        if self._clock() < endpoint.struggling_until:
            return min(self._patience_seconds, _SHORT_ANSWER_SECONDS)
        return self._patience_seconds

    def is_struggling(self) -> bool:
        """Say whether no endpoint has lately answered in time."""
        now = self._clock()
        return all(now < endpoint.struggling_until for endpoint in self._endpoints)

    def note_silence(self, endpoint: Endpoint) -> None:
        """Remember that it did not answer in time."""
        endpoint.struggling_until = self._clock() + _STRUGGLING_SECONDS

    def note_answer(self, endpoint: Endpoint) -> None:
        """Remember that it answers again."""
        endpoint.struggling_until = 0.0

    def note_wrong_content(self) -> None:
        """Prefer another endpoint, where there is one, after content that did not match its digest."""
        if len(self._endpoints) > 1:
            self.note_silence(self.in_order()[0])
