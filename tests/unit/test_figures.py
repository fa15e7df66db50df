"""Figures of several workers, joined into one."""

from __future__ import annotations

from mirror.figures import (
    GENERATION_BITS,
    Traffic,
    Transfer,
    UpstreamSight,
    WorkerReport,
    live_workers,
    merge_transfers,
    merge_upstreams,
)
from mirror.ports import UpstreamState

NOW = 1000.0


def transfer(digest: str, **facts: int | None) -> Transfer:
    made = {"size_bytes": 100, "done_bytes": 0, "followers": 1, **facts}
    return Transfer(digest=digest, repository="docker.io/library/app", **made)  # type: ignore[arg-type]


def sight(up_at: float = 0.0, limit_at: float = 0.0, **facts: object) -> UpstreamSight:
    state = {
        "name": "docker.io",
        "is_up": None,
        "credential": "none",
        "is_refused": False,
        "limit": None,
        "remaining": None,
        "wait_seconds": 0.0,
        **facts,
    }
    return UpstreamSight(state=UpstreamState(**state), up_at=up_at, limit_at=limit_at)  # type: ignore[arg-type]


def report(worker: int, *, at: float = NOW, **facts: object) -> WorkerReport:
    return WorkerReport(worker=worker << GENERATION_BITS | 1, at=at, **facts)  # type: ignore[arg-type]


def test_nothing_is_saved_where_more_was_fetched_than_sent() -> None:
    assert Traffic(sent_bytes=10, fetched_bytes=30).saved_bytes == 0
    assert Traffic(sent_bytes=30, fetched_bytes=10).saved_bytes == 20


def test_without_requests_there_is_no_hit_rate() -> None:
    assert Traffic().hit_rate is None
    assert Traffic(requests=4, hits=1).hit_rate == 0.25


def test_a_download_of_two_workers_is_one_as_far_as_either_has_come() -> None:
    writing = transfer("sha256:a", done_bytes=50, followers=2)
    watching = transfer("sha256:a", done_bytes=40, followers=3, size_bytes=None)
    for reports in ([writing, watching], [watching, writing]):
        merged = merge_transfers([report(n, transfers=[one]) for n, one in enumerate(reports)], NOW)
        assert merged == [transfer("sha256:a", done_bytes=50, followers=5)]


def test_the_largest_download_comes_first_and_one_of_unknown_size_last() -> None:
    found = [transfer("a", size_bytes=None), transfer("b", size_bytes=5), transfer("c", size_bytes=9)]
    assert [one.digest for one in merge_transfers([report(1, transfers=found)], NOW)] == ["c", "b", "a"]


def test_what_a_worker_told_long_ago_is_not_so_any_more() -> None:
    old = report(1, at=NOW - 100, transfers=[transfer("a")], upstreams=[sight(is_up=True)])
    assert merge_transfers([old], NOW) == []
    assert merge_upstreams([old], NOW) == []
    assert live_workers([old, report(2)], NOW) == 1


def test_the_worker_that_asked_last_knows_whether_an_upstream_answers() -> None:
    reports = [
        report(1, upstreams=[sight(up_at=5, is_up=False)]),
        report(2, upstreams=[sight(up_at=7, is_up=True)]),
        report(3, upstreams=[sight()]),
    ]
    assert [one.is_up for one in merge_upstreams(reports, NOW)] == [True]


def test_limit_wait_and_credential_each_come_from_who_knows() -> None:
    reports = [
        report(1, upstreams=[sight(limit_at=9, limit=100, remaining=7)]),
        report(2, upstreams=[sight(limit_at=3, limit=100, remaining=90, wait_seconds=4.0)]),
        report(3, upstreams=[sight(credential="from a file: refused, left alone for 5 min", is_refused=True)]),
        report(4, upstreams=[sight(credential="from a file: not shown yet")]),
    ]
    (merged,) = merge_upstreams(reports, NOW)
    assert (merged.limit, merged.remaining, merged.wait_seconds) == (100, 7, 4.0)
    assert (merged.credential, merged.is_refused) == ("from a file: refused, left alone for 5 min", True)
