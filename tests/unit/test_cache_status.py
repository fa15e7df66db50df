from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.http.cache_status import Outcome, cache_status


@pytest.mark.parametrize(
    ("outcome", "ttl_seconds", "forward_status", "header"),
    [
        (Outcome.HIT, None, None, "mirror; hit"),
        (Outcome.HIT, 376, None, "mirror; hit; ttl=376"),
        (Outcome.REVALIDATED, None, None, "mirror; fwd=stale; fwd-status=200"),
        (Outcome.REVALIDATED, 60, 304, "mirror; fwd=stale; fwd-status=304"),
        (Outcome.STALE, -412, None, "mirror; hit; ttl=-412; detail=stale-if-error"),
        (Outcome.MISS, None, None, "mirror; fwd=uri-miss; fwd-status=200; stored"),
        (Outcome.MISS, None, 206, "mirror; fwd=uri-miss; fwd-status=206; stored"),
        (Outcome.MISS, None, 404, "mirror; fwd=uri-miss; fwd-status=404"),
        (Outcome.COALESCED, None, 200, "mirror; fwd=uri-miss; collapsed"),
        (Outcome.BYPASS, None, None, "mirror; fwd=bypass"),
        (Outcome.NEGATIVE, 9, None, "mirror; hit; ttl=9; detail=negative"),
    ],
)
def test_the_header_tells_what_happened(
    outcome: Outcome, ttl_seconds: int | None, forward_status: int | None, header: str
) -> None:
    assert cache_status(outcome, ttl_seconds=ttl_seconds, forward_status=forward_status) == header


@given(st.sampled_from(Outcome), st.none() | st.integers(), st.none() | st.integers(min_value=100, max_value=599))
def test_every_outcome_is_one_member_named_mirror(outcome: Outcome, ttl: int | None, status: int | None) -> None:
    """A hit or a reason for asking the upstream, never both.

    Spec: https://www.rfc-editor.org/rfc/rfc9211.html#section-2
    """
    name, *parameters = cache_status(outcome, ttl_seconds=ttl, forward_status=status).split("; ")

    assert name == "mirror"
    assert ("hit" in parameters) is not any(parameter.startswith("fwd=") for parameter in parameters)
