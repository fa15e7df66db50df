"""What this process has counted for the page since it was last asked, in memory, so that a hit writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mirror.figures import FROM_STORE, FROM_UPSTREAM, PULLED_KINDS, Counted, Problem, Pulls
from mirror.oci.requests import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.http.cache_status import Outcome
    from mirror.ports import Clock

_MOST_REPOSITORIES: Final = 10_000
_MOST_PROBLEMS: Final = 100
_LONGEST_FACT: Final = 300
# what tells one occurrence from another of the same problem, and whom it happened to
_PASSING: Final = frozenset(
    {"event", "level", "pid", "timestamp", "request_id", "client", "method", "duration_seconds", "bytes_sent", "kind"}
)


class Tally:
    """Adds up answers, fetched bytes and problems; remembers when upstreams were last heard of."""

    def __init__(self, clock: Clock) -> None:
        """Begin at nothing."""
        self._clock = clock
        self._counted = Counted()
        self.up_at: dict[str, float] = {}
        self.limit_at: dict[str, float] = {}

    def take(self) -> Counted:
        """Return what was counted since the last time."""
        counted, self._counted = self._counted, Counted()
        return counted

    def give_back(self, counted: Counted) -> None:
        """Count again what could not be handed on, but for what belongs to a time that is over."""
        self._counted.traffic.add(counted.traffic)
        for one in counted.pulls.values():
            self._add_pulls(one.repository, one.pulls, one.sent_bytes)

    def answered(
        self,
        *,
        upstream: str | None,
        repository: str | None,
        kind: Kind,
        outcome: Outcome | None,
        size_bytes: int,
        number: int,
        failure: str | None,
    ) -> None:
        """So many requests were answered alike, each with ``size_bytes``; ``failure`` says what went wrong."""
        if failure is not None:
            self._counted.traffic.failures += number
            facts = {"upstream": upstream, "repository": repository, "error": failure}
            self.note_problem("error", "answer.failed", facts, number)
        if kind not in PULLED_KINDS:
            return
        traffic, sent_bytes = self._counted.traffic, size_bytes * number
        traffic.sent_bytes += sent_bytes
        if outcome in FROM_STORE:
            traffic.requests += number
            traffic.hits += number
            traffic.hit_bytes += sent_bytes
        elif outcome in FROM_UPSTREAM:
            traffic.requests += number
        else:
            return
        if sent_bytes and upstream is not None and repository is not None:
            self._add_pulls(f"{upstream}/{repository}", number if kind is Kind.MANIFEST else 0, sent_bytes)

    def _add_pulls(self, repository: str, number: int, sent_bytes: int) -> None:
        pulls = self._counted.pulls
        known = pulls.get(repository)
        if known is None:
            if len(pulls) >= _MOST_REPOSITORIES:
                return
            known = pulls[repository] = Pulls(repository=repository)
        known.pulls += number
        known.sent_bytes += sent_bytes

    def upstream_sent(self, kind: Kind, size_bytes: int) -> None:
        """Body bytes arrived."""
        if kind in PULLED_KINDS:
            self._counted.traffic.fetched_bytes += size_bytes

    def upstream_up(self, upstream: str) -> None:
        """An upstream has answered, or failed to, just now."""
        self.up_at[upstream] = self._clock()

    def limit_seen(self, upstream: str) -> None:
        """An upstream has told its rate limit just now."""
        self.limit_at[upstream] = self._clock()

    def note_problem(self, level: str, event: str, facts: Mapping[str, object], times: int = 1) -> None:
        """Note what an operator may want to see: what happened again is one with what happened before."""
        text = ", ".join(
            f"{name} {_shorten(str(value))}"
            for name, value in facts.items()
            if name not in _PASSING and value is not None
        )
        problems, key = self._counted.problems, (event, text)
        known = problems.get(key)
        if known is None and len(problems) >= _MOST_PROBLEMS:
            return
        times += 0 if known is None else known.times
        problems[key] = Problem(level=level, event=event, facts=text, times=times, last_at=self._clock())


def _shorten(text: str) -> str:
    """Return one line; of a traceback that is the last, which says what it was."""
    line = text.strip().rpartition("\n")[2]
    return line if len(line) <= _LONGEST_FACT else f"{line[:_LONGEST_FACT]}…"
