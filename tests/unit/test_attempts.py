from __future__ import annotations

import pytest

from mirror.errors import TooManyRequests
from mirror.web import attempts
from mirror.web.attempts import Attempts


class StoppedClock:
    def __init__(self) -> None:
        self._seconds = 1_000_000.0

    def now(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        self._seconds += seconds


def take_all(tried: Attempts, address: str) -> int:
    taken = 0
    with pytest.raises(TooManyRequests) as refused:  # noqa: PT012 - whichever is refused
        for taken in range(1000):  # noqa: B007 - how far it came is the answer
            tried.take(address)
    assert 0 < refused.value.retry_after_seconds <= 6
    return taken


def test_some_may_be_tried_at_once_and_one_in_a_while() -> None:
    clock = StoppedClock()
    tried = Attempts(clock.now)
    assert take_all(tried, "192.0.2.1") == 30
    assert take_all(tried, "192.0.2.1") == 0
    assert take_all(tried, "192.0.2.2") == 30
    clock.advance(13)
    assert take_all(tried, "192.0.2.1") == 2
    clock.advance(10_000)
    assert take_all(tried, "192.0.2.1") == 30


def test_right_ones_do_not_count() -> None:
    tried = Attempts(StoppedClock().now)
    for _ in range(100):
        tried.take("192.0.2.1")
        tried.give_back("192.0.2.1")
    assert take_all(tried, "192.0.2.1") == 30


def test_an_ipv6_host_has_no_more_of_them_for_having_more_addresses() -> None:
    tried = Attempts(StoppedClock().now)
    assert take_all(tried, "2001:db8::1") == 30
    assert take_all(tried, "2001:db8::2") == 0
    assert take_all(tried, "2001:db8:0:1::1") == 30


def test_a_clock_that_is_set_back_locks_nobody_out_for_longer() -> None:
    clock = StoppedClock()
    tried = Attempts(clock.now)
    take_all(tried, "192.0.2.1")
    clock.advance(-100_000)
    take_all(tried, "192.0.2.1")
    clock.advance(6.5)
    assert take_all(tried, "192.0.2.1") == 1


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_MOST_SITES", 3)
    tried = Attempts(StoppedClock().now)
    for last in range(10):
        take_all(tried, f"192.0.2.{last}")
    tried.give_back("192.0.2.0")
    assert len(tried._whole_at) == 3  # noqa: SLF001 - what the bound is about
