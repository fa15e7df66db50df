"""Figures as the page writes and draws them."""

from __future__ import annotations

import pytest

from mirror.figures import Span, Traffic
from mirror.web.page import chart, words

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none yet"), (0.0, "0 %"), (0.0001, "0.1 %"), (0.874, "87 %"), (0.9999, "99.9 %"), (1.0, "100 %")],
)
def test_all_and_nothing_are_only_said_where_they_are_so(value: float | None, text: str) -> None:
    assert words.share(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(1, "1 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (2e5, "2 d")])
def test_durations_are_told_in_the_largest_unit_of_which_there_are_two(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_a_chart_adds_up_what_is_shown_and_leaves_out_what_is_older() -> None:
    spans = [
        Span(start=NOW - 86400, traffic=Traffic(requests=100)),
        Span(start=NOW - 120, traffic=Traffic(requests=3, hits=3, sent_bytes=10)),
        Span(start=NOW, traffic=Traffic(requests=1, sent_bytes=5)),
    ]
    drawn = chart.render(chart.MINUTES, spans, NOW)
    assert 'aria-label="75 % of 4 requests in the last 3 hours were answered from the store"' in drawn


def test_without_traffic_there_is_no_chart() -> None:
    assert "<svg" not in chart.render(chart.HOURS, [], NOW)
