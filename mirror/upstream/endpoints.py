"""The endpoints of one upstream: which to ask, how patiently, which to leave alone.

    up ──no answer in time, or three 5xx in a row──► down ──an answer, to a probe or a request──► up

While another endpoint is up, one that is down is asked nothing but probes, behind the scenes. When all are down they
are tried all the same, with little patience: the upstream is served again the moment it recovers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from yarl import URL

from mirror.upstream.limits import RateLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ANSWER_SECONDS: Final = (
    10.0  # for the head of an answer: containerd gives a mirror 30 s, and there may be two attempts
)
_SHORT_ANSWER_SECONDS: Final = 2.0
_ERRORS: Final = 3  # 5xx in a row: one may be about one image only
_FIRST_PROBE_SECONDS: Final = 1.0
_LONGEST_PROBE_SECONDS: Final = 60.0
_PROBES_SKIPPED: Final = 5  # so that the first comes after half a minute


@dataclass(slots=True, eq=False)
class Endpoint:
    """One place that answers for an upstream."""

    url: URL
    limit: RateLimit = field(default_factory=RateLimit)
    is_down: bool = False
    has_answered: bool = False
    errors: int = 0
    probes: int = 0

    def rise(self) -> None:
        """Be up, again or for the first time."""
        self.has_answered = True
        self.is_down = False
        self.errors = 0

    def next_probe_seconds(self) -> float:
        """Return how long to wait before it is probed (again)."""
        return min(_FIRST_PROBE_SECONDS * float(2**self.probes), _LONGEST_PROBE_SECONDS)


class Endpoints:
    """An upstream's endpoints, in the operator's order."""

    def __init__(self, urls: Sequence[str], *, read_timeout_seconds: float, fell: Callable[[Endpoint], None]) -> None:
        """Take absolute URLs, in order of preference; ``fell`` is called with an endpoint that has just gone down."""
        self._endpoints = [Endpoint(URL(url)) for url in urls]
        self._patience_seconds = min(read_timeout_seconds, _ANSWER_SECONDS)
        self._fell = fell

    def in_order(self) -> list[Endpoint]:
        """Return what to try, first to last."""
        return [one for one in self._endpoints if not one.is_down] or list(self._endpoints)

    @property
    def preferred(self) -> Endpoint:
        """The first of ``in_order``, without the list: whoever looks at a tag's lifetime looks at this."""
        return next((one for one in self._endpoints if not one.is_down), self._endpoints[0])

    @property
    def patience_seconds_outside(self) -> float:
        """How long to wait for a service that is not one of these endpoints."""
        return self._patience_seconds

    def patience_seconds(self, endpoint: Endpoint) -> float:
        """Return how long to wait for the head of an answer."""
        return min(self._patience_seconds, _SHORT_ANSWER_SECONDS) if endpoint.is_down else self._patience_seconds

    def is_up(self) -> bool:
        """Say whether any endpoint answers, as far as is known."""
        return any(not one.is_down for one in self._endpoints)

    def is_known(self) -> bool:
        """Say whether any endpoint was ever asked."""
        return any(one.is_down or one.has_answered for one in self._endpoints)

    def note_silence(self, endpoint: Endpoint) -> None:
        """Remember that it did not answer, or not in time."""
        if not endpoint.is_down:
            endpoint.is_down = True
            endpoint.probes = 0
            self._fell(endpoint)

    def note_answer(self, endpoint: Endpoint, *, is_error: bool) -> None:
        """Remember that it answered, by a 5xx (``is_error``) or with sense."""
        if not is_error:
            endpoint.rise()
            return
        endpoint.errors += 1
        if endpoint.errors >= _ERRORS:
            self.note_silence(endpoint)

    def note_wrong_content(self) -> None:
        """Leave an endpoint alone, where there is another one, after content that did not match its digest."""
        if len(self._endpoints) > 1:
            endpoint = self.preferred
            self.note_silence(endpoint)
            endpoint.probes = _PROBES_SKIPPED  # it answers, only not with what was asked for
