"""What one worker counts."""

from __future__ import annotations

from typing import Any

from mirror.figures import Pulls, Traffic
from mirror.http.cache_status import Outcome
from mirror.oci.requests import Kind
from mirror.telemetry.tally import Tally


def tally() -> Tally:
    return Tally(lambda: 1000.0)


def answered(of: Tally, **facts: Any) -> None:  # noqa: ANN401 - any of the observer's
    defaults: dict[str, Any] = {
        "upstream": "docker.io",
        "repository": "library/app",
        "kind": Kind.BLOB,
        "outcome": Outcome.HIT,
        "size_bytes": 10,
        "number": 1,
        "failure": None,
    }
    of.answered(**{**defaults, **facts})


def test_each_outcome_counts_as_it_does_on_the_dashboard() -> None:
    counting = tally()
    for outcome in (*Outcome, None):
        answered(counting, outcome=outcome)
    counting.upstream_sent(Kind.BLOB, 25)
    counting.upstream_sent(Kind.TAGS, 1000)
    assert counting.take().traffic == Traffic(requests=5, hits=3, sent_bytes=80, hit_bytes=30, fetched_bytes=25)


def test_lists_and_pings_are_no_pulls() -> None:
    counting = tally()
    for kind in set(Kind) - {Kind.BLOB, Kind.MANIFEST}:
        answered(counting, kind=kind, outcome=Outcome.BYPASS)
    assert not counting.take()


def test_a_pull_is_a_manifest_that_was_sent() -> None:
    counting = tally()
    answered(counting, kind=Kind.MANIFEST, number=3, size_bytes=7)
    answered(counting, kind=Kind.MANIFEST, size_bytes=0)
    answered(counting, kind=Kind.BLOB, size_bytes=100)
    name = "docker.io/library/app"
    assert counting.take().pulls == {name: Pulls(repository=name, pulls=3, sent_bytes=121)}


def test_what_was_taken_is_not_counted_again_unless_it_is_given_back() -> None:
    counting = tally()
    answered(counting)
    taken = counting.take()
    assert not counting.take()
    answered(counting)
    counting.give_back(taken)
    assert counting.take().traffic == Traffic(requests=2, hits=2, sent_bytes=20, hit_bytes=20)


def test_the_same_problem_is_one_whoever_it_happened_to() -> None:
    counting = tally()
    for client in ("10.0.0.1", "10.0.0.2"):
        facts = {"event": "store.failed", "level": "error", "client": client, "digest": "sha256:0", "error": "no"}
        counting.note_problem("error", "store.failed", facts)
    (problem,) = counting.take().problems.values()
    assert (problem.facts, problem.times) == ("digest sha256:0, error no", 2)


def test_of_a_traceback_the_last_line_is_kept_and_no_line_is_longer_than_can_be_read() -> None:
    counting = tally()
    counting.note_problem("error", "task.failed", {"exception": "Traceback\n  File\nValueError: " + "x" * 1000})
    (problem,) = counting.take().problems.values()
    assert problem.facts.startswith("exception ValueError: xxx")
    assert len(problem.facts) < 400


def test_clients_cannot_make_it_grow_without_end() -> None:
    counting = tally()
    for number in range(20_000):
        answered(counting, repository=f"a/{number}", failure=f"no {number}")
    taken = counting.take()
    assert (len(taken.pulls), len(taken.problems)) == (10_000, 100)
    assert taken.traffic.failures == 20_000
