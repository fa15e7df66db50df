from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.http.conditional import etag_matches, if_range_holds
from mirror.oci.digest import Digest

DIGEST = Digest.of(b"content")
OTHER = Digest.of(b"other")


@pytest.mark.parametrize(
    "header",
    ["*", " * ", f'"{DIGEST}"', f"{DIGEST}", f'W/"{DIGEST}"', f'"{OTHER}", "{DIGEST}"', f'"a,b",W/"{DIGEST}" ,"c"'],
)
def test_a_tag_of_this_content_matches(header: str) -> None:
    assert etag_matches(header, DIGEST)


@pytest.mark.parametrize(
    "header",
    [None, "", '""', f'"{OTHER}"', f'"{DIGEST}x"', '"*"', DIGEST.encoded, f'"a,{DIGEST}"', f'"{str(DIGEST).upper()}"'],
)
def test_a_tag_of_other_content_does_not_match(header: str | None) -> None:
    assert not etag_matches(header, DIGEST)


@pytest.mark.parametrize("header", [None, f'"{DIGEST}"', f"{DIGEST}", f' "{DIGEST}" '])
def test_a_range_holds_without_a_condition_or_for_exactly_this_content(header: str | None) -> None:
    assert if_range_holds(header, DIGEST)


@pytest.mark.parametrize("header", ["", f'W/"{DIGEST}"', f'"{OTHER}"', "Sun, 06 Nov 1994 08:49:37 GMT", "*"])
def test_a_range_does_not_hold_for_a_weak_tag_a_date_or_other_content(header: str) -> None:
    assert not if_range_holds(header, DIGEST)


@given(st.text() | st.text(alphabet='"W/*, ab'))
def test_no_text_is_an_error_or_another_content_s_tag(header: str) -> None:
    assert etag_matches(header, DIGEST) is (header.strip() == "*")
    assert not if_range_holds(header, DIGEST)
