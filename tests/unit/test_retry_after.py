from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.http.retry_after import RETRY_AFTER_LIMIT_SECONDS, parse_retry_after

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


@given(st.integers(min_value=0, max_value=int(RETRY_AFTER_LIMIT_SECONDS)))
def test_seconds_and_dates_mean_the_same(seconds: int) -> None:
    date = format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)

    assert parse_retry_after(str(seconds), NOW) == seconds
    assert parse_retry_after(date, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (" 34 ", 34.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("Mon, 23 Nov 2026 11:59:00 GMT", 0.0),
        ("Monday, 23-Nov-26 12:00:07 GMT", 7.0),
        ("Mon Nov 23 12:00:07 2026", 7.0),
        ("Mon, 23 Nov 2026 12:00:07 -0000", 7.0),
        ("Mon, 23 Nov 2099 12:00:07 GMT", RETRY_AFTER_LIMIT_SECONDS),
        ("99999999999", RETRY_AFTER_LIMIT_SECONDS),
        ("9" * 5000, RETRY_AFTER_LIMIT_SECONDS),
    ],
)
def test_the_wait_is_between_nothing_and_a_day(text: str, seconds: float) -> None:
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    "text", [None, "", "soon", "-1", "+1", "1e3", "nan", "inf", "\u0663", "1 2", "Mon, 99 Nov 2026", "985.86µs"]
)
def test_what_makes_no_sense_is_none(text: str | None) -> None:
    assert parse_retry_after(text, NOW) is None


@given(
    st.text() | st.text(alphabet="MonNv 0123456789:,-+GMT") | st.from_regex(r"\w{3}, \d+ Nov \d+ \d+:\d+:\d+ [+-]\d+"),
    st.floats(min_value=0, max_value=2**40),
)
def test_no_text_is_an_error(text: str, now: float) -> None:
    seconds = parse_retry_after(text, now)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_LIMIT_SECONDS
