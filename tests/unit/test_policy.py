"""The decision about one tag, at every moment of its life."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.policy import Fetch, Revalidate, Serve, StoredTag, TagLifetime, decide

DESCRIPTOR = Descriptor(media_type="application/vnd.oci.image.index.v1+json", digest=Digest.of(b"x"), size_bytes=1)
MINUTE_AND_HOUR = TagLifetime(fresh_seconds=60, stale_seconds=3600)
times = st.floats(min_value=0, max_value=4e9, allow_nan=False)
spans = st.floats(min_value=0, max_value=1e8, allow_nan=False)


def stored_at(confirmed_at: float) -> StoredTag:
    return StoredTag(descriptor=DESCRIPTOR, confirmed_at=confirmed_at)


def test_what_is_not_stored_is_fetched() -> None:
    assert decide(None, now=0, lifetime=MINUTE_AND_HOUR) == Fetch()


def test_a_fresh_tag_is_served_with_the_time_it_has_left() -> None:
    stored = stored_at(1000)
    assert decide(stored, now=1000, lifetime=MINUTE_AND_HOUR) == Serve(stored, 60)
    assert decide(stored, now=1018.5, lifetime=MINUTE_AND_HOUR) == Serve(stored, 41)


def test_past_its_time_it_is_revalidated_and_may_be_stale_for_a_while() -> None:
    stored = stored_at(1000)
    assert decide(stored, now=1060, lifetime=MINUTE_AND_HOUR) == Revalidate(
        stored, may_serve_stale=True, stale_for_seconds=0
    )
    assert decide(stored, now=4660, lifetime=MINUTE_AND_HOUR) == Revalidate(
        stored, may_serve_stale=True, stale_for_seconds=3600
    )
    assert decide(stored, now=4661, lifetime=MINUTE_AND_HOUR) == Revalidate(
        stored, may_serve_stale=False, stale_for_seconds=3601
    )


def test_where_nobody_is_asked_a_tag_stays_fresh_whatever_the_clock_says() -> None:
    stored, forever = stored_at(1000), TagLifetime(fresh_seconds=math.inf, stale_seconds=0)
    assert decide(stored, now=1e12, lifetime=forever) == Serve(stored, None)
    assert decide(stored, now=-1e12, lifetime=forever) == Serve(stored, None)
    assert decide(None, now=0, lifetime=forever) == Fetch()


def test_a_clock_that_was_set_back_keeps_nothing_fresh() -> None:
    assert isinstance(decide(stored_at(1000), now=10, lifetime=MINUTE_AND_HOUR), Revalidate)


@given(confirmed_at=times, now=times, fresh=spans, stale=spans)
def test_a_decision_never_exceeds_the_lifetime(confirmed_at: float, now: float, fresh: float, stale: float) -> None:
    decision = decide(stored_at(confirmed_at), now=now, lifetime=TagLifetime(fresh_seconds=fresh, stale_seconds=stale))
    match decision:
        case Serve(_, ttl_seconds):
            assert ttl_seconds is not None
            assert 0 <= ttl_seconds <= fresh
            assert confirmed_at <= now + 1e-3
        case Revalidate(_, may_serve_stale, stale_for_seconds):
            assert stale_for_seconds >= 0
            assert may_serve_stale == (stale_for_seconds <= stale)
        case Fetch():
            raise AssertionError("something is stored")


# While little is left of a rate limit


def test_a_lifetime_is_stretched_the_more_the_less_is_left() -> None:
    assert MINUTE_AND_HOUR.stretched(1.0).fresh_seconds == 120
    assert MINUTE_AND_HOUR.stretched(0.5).fresh_seconds == 360
    assert MINUTE_AND_HOUR.stretched(0.0).fresh_seconds == 600


@given(fresh=spans, stale=spans, left=st.floats(min_value=0, max_value=1), key=st.text())
def test_a_stretched_tag_is_served_no_longer_than_before(fresh: float, stale: float, left: float, key: str) -> None:
    lifetime = TagLifetime(fresh_seconds=fresh, stale_seconds=stale)
    stretched = lifetime.stretched(left)
    assert stretched.fresh_seconds + stretched.stale_seconds <= (fresh + stale) * (1 + 1e-9)
    assert 0 <= stretched.fresh_seconds_of(key) <= stretched.fresh_seconds


def test_stretched_tags_are_not_all_asked_about_at_once() -> None:
    stretched = MINUTE_AND_HOUR.stretched(0.0)
    ends = sorted(stretched.fresh_seconds_of(f"docker.io/library/app{number}:1") for number in range(200))
    assert ends[0] == pytest.approx(300, abs=20)
    assert ends[-1] == pytest.approx(600, abs=20)
    assert max(later - sooner for sooner, later in pairwise(ends)) < 30


def test_a_tag_that_is_not_stretched_has_its_whole_lifetime() -> None:
    assert {MINUTE_AND_HOUR.fresh_seconds_of(str(number)) for number in range(50)} == {60}
