"""The decision about one tag, at every moment of its life."""

from __future__ import annotations

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


def test_a_clock_that_was_set_back_keeps_nothing_fresh() -> None:
    assert isinstance(decide(stored_at(1000), now=10, lifetime=MINUTE_AND_HOUR), Revalidate)


@given(confirmed_at=times, now=times, fresh=spans, stale=spans)
def test_a_decision_never_exceeds_the_lifetime(confirmed_at: float, now: float, fresh: float, stale: float) -> None:
    decision = decide(stored_at(confirmed_at), now=now, lifetime=TagLifetime(fresh_seconds=fresh, stale_seconds=stale))
    match decision:
        case Serve(_, ttl_seconds):
            assert 0 <= ttl_seconds <= fresh
            assert confirmed_at <= now + 1e-3
        case Revalidate(_, may_serve_stale, stale_for_seconds):
            assert stale_for_seconds >= 0
            assert may_serve_stale == (stale_for_seconds <= stale)
        case Fetch():
            raise AssertionError("something is stored")
