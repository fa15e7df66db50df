"""Rate limits: every way in which an upstream tells of them, and how long each is kept to."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.upstream.limits import RateLimit, read_limit, read_wait_seconds, read_window_seconds

NOW = 1_000_000.0
HUB_TEXT = (
    '{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. '
    'https://www.docker.com/increase-rate-limit"}]}'
)
GHCR_TEXT = '{"errors":[{"code":"TOOMANYREQUESTS","message":"retry-after: %s, allowed: 44000/minute"}]}'


def told(limit: str, remaining: str) -> RateLimit:
    made = RateLimit()
    assert made.note_headers({"RateLimit-Limit": limit, "RateLimit-Remaining": remaining}, NOW)
    return made


@pytest.mark.parametrize(
    ("text", "number", "window"),
    [
        ("100;w=21600", 100, 21600),
        (" 200 ; w = 60", 200, 60),
        ("7", 7, None),
        ("100;q=3;w=5", 100, 5),
        ("", None, None),
        ("-1;w=2", None, None),
        ("many", None, None),
        (None, None, None),
    ],
)
def test_a_limit_is_read(text: str | None, number: int | None, window: int | None) -> None:
    assert (read_limit(text), read_window_seconds(text)) == (number, window)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("985.86µs", 985.86e-6),
        ("985.86us", 985.86e-6),
        ("1m30.5s", 90.5),
        ("2h", 7200),
        ("250ms", 0.25),
        ("900h", 86400),
    ],
)
def test_a_wait_in_the_text_of_an_error_is_read(text: str, seconds: float) -> None:
    assert read_wait_seconds(GHCR_TEXT % text) == pytest.approx(seconds)


@given(st.text())
def test_any_text_is_read_without_a_fault(text: str) -> None:
    seconds = read_wait_seconds(text)
    assert seconds is None or 0 <= seconds <= 86400
    waited = RateLimit().note_refusal({}, text, is_counted=True, now=NOW)
    assert math.isfinite(waited)
    assert waited >= 1


def test_a_pull_limit_spares_what_it_does_not_count() -> None:
    limit = told("100;w=21600", "0;w=21600")
    assert limit.note_refusal({}, HUB_TEXT, is_counted=True, now=NOW) == 216  # one comes back after so long
    assert limit.wait_seconds(is_counted=True, now=NOW) == 216
    assert limit.wait_seconds(is_counted=False, now=NOW) == 0
    assert limit.wait_seconds(is_counted=True, now=NOW + 216) == 0


def test_a_limit_against_abuse_is_kept_to_for_everything_and_ever_longer() -> None:
    limit = RateLimit()
    waits = [limit.note_refusal({}, "Too Many Requests", is_counted=False, now=NOW) for _ in range(8)]
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert limit.wait_seconds(is_counted=False, now=NOW) == 300
    limit.note_success()
    assert limit.note_refusal({}, "Too Many Requests", is_counted=False, now=NOW) == 5


def test_what_the_header_says_wins_over_the_text_and_nobody_means_less_than_a_second() -> None:
    limit = RateLimit()
    assert limit.note_refusal({"Retry-After": "34"}, GHCR_TEXT % "3s", is_counted=False, now=NOW) == 34
    assert limit.note_refusal({"Retry-After": "0"}, "", is_counted=False, now=NOW) == 1
    assert limit.note_refusal({}, GHCR_TEXT % "985.86µs", is_counted=False, now=NOW) == 1
    assert limit.note_refusal({}, GHCR_TEXT % "3s", is_counted=False, now=NOW) == 3


def test_the_reserve_is_what_is_left_of_a_share() -> None:
    assert told("100;w=21600", "11;w=21600").reserve_left(0.1, NOW) is None
    assert told("100;w=21600", "10;w=21600").reserve_left(0.1, NOW) == 1
    assert told("100;w=21600", "5;w=21600").reserve_left(0.1, NOW) == 0.5
    assert told("100;w=21600", "0;w=21600").reserve_left(0.1, NOW) == 0
    assert told("100;w=21600", "0;w=21600").reserve_left(0.0, NOW) == 0
    assert told("100;w=21600", "1;w=21600").reserve_left(0.0, NOW) is None
    assert RateLimit().reserve_left(1.0, NOW) is None


def test_what_was_told_before_the_window_began_says_nothing() -> None:
    limit = told("100;w=60", "0;w=60")
    assert limit.reserve_left(0.1, NOW + 60) == 0
    assert limit.reserve_left(0.1, NOW + 61) is None
