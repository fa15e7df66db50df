"""Long work in a thread, a little at a time."""

from __future__ import annotations

import time

from mirror.concurrency.unhurried import REST, unhurried


def busy(seconds: float) -> None:
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        pass


def test_every_item_comes_in_order() -> None:
    assert list(unhurried(iter(range(1000)))) == list(range(1000))
    assert list(unhurried([])) == []


def test_what_takes_long_is_followed_by_a_longer_rest() -> None:
    began, processor_began = time.perf_counter(), time.thread_time()
    for _ in unhurried(range(10)):
        busy(0.002)
    worked = time.thread_time() - processor_began
    assert time.perf_counter() - began >= worked * (1 + REST) * 0.9
