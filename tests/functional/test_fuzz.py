"""A little of ``make fuzz``, with seeds of its own, for some seconds."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import fuzz_answers, fuzz_requests

_SECONDS = 8.0


@pytest.mark.timeout(240)
async def test_fuzzed_requests_find_nothing() -> None:
    """No 500, no traceback, no hang, no growth of memory or handles, nothing wrong stored."""
    report = await fuzz_requests(4000, 11, seconds=_SECONDS, workers=1)
    assert report.findings == []
    assert report.number > 100


@pytest.mark.timeout(240)
async def test_fuzzed_answers_find_nothing() -> None:
    """The same, and no bytes that are not those of their digest."""
    report = await fuzz_answers(1000, 11, seconds=_SECONDS, workers=1)
    assert report.findings == []
    assert report.number > 100
