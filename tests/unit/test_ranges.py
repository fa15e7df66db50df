from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import RangeUnsatisfiable
from mirror.http.ranges import ByteRange, ContentRange, open_start, parse_content_range, parse_range

sizes = st.integers(min_value=1, max_value=1000)
offsets = st.integers(min_value=0, max_value=2000)


@given(sizes, offsets, offsets)
def test_a_closed_range_is_what_slicing_gives(size: int, first: int, last: int) -> None:
    content = bytes(index % 251 for index in range(size))
    header = f"bytes={first}-{last}"
    if last < first:
        assert parse_range(header, size) is None
    elif first >= size:
        with pytest.raises(RangeUnsatisfiable) as caught:
            parse_range(header, size)
        assert caught.value.size_bytes == size
    else:
        chosen = parse_range(header, size)
        assert chosen is not None
        assert content[chosen.first : chosen.last + 1] == content[first : last + 1]
        assert chosen.length == len(content[first : last + 1])


@given(sizes, offsets)
def test_an_open_range_goes_to_the_end(size: int, first: int) -> None:
    assert open_start(f"bytes={first}-") == first
    if first < size:
        assert parse_range(f"bytes={first}-", size) == ByteRange(first=first, last=size - 1)
    else:
        with pytest.raises(RangeUnsatisfiable):
            parse_range(f"bytes={first}-", size)


@given(sizes, st.integers(min_value=1, max_value=2000))
def test_a_suffix_range_is_the_last_bytes_or_all_there_are(size: int, length: int) -> None:
    assert parse_range(f"bytes=-{length}", size) == ByteRange(first=max(0, size - length), last=size - 1)


@pytest.mark.parametrize("header", ["bytes=0-0", "Bytes=0-0", " bytes=0-0 ", "bytes = 0-0", "bytes= 00-000"])
def test_spelling_is_taken_generously(header: str) -> None:
    assert parse_range(header, 5) == ByteRange(first=0, last=0)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=--1",
        "bytes=a-b",
        "bytes=1",
        "bytes=3-2",
        "bytes=0-1,3-4",
        "bytes=0-1,",
        "bytes=9-,0-1",
        "items=0-1",
        "bytes=0x0-0x1",
        "bytes=\u0660-\u0661",
        "bytes=0-1;x",
        "bytes=0 -1",
        "bytes=0-1\0",
        "bytes=+0-1",
        "0-1",
    ],
)
def test_whatever_is_not_one_plain_range_gets_the_whole_body(header: str | None) -> None:
    """Podman asks for several ranges at once, takes 200 with the whole body, and fails on 416."""
    assert parse_range(header, 5) is None


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-5", "bytes=-5", "bytes=-0"])
def test_an_empty_body_is_sent_whole(header: str) -> None:
    assert parse_range(header, 0) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=1-", 0), ("bytes=5-", 5), ("bytes=5-9", 5), ("bytes=-0", 5)])
def test_a_range_with_nothing_in_it_is_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(RangeUnsatisfiable) as caught:
        parse_range(header, size)
    assert caught.value.size_bytes == size


def test_numbers_of_thousands_of_digits_are_past_every_end() -> None:
    digits, zeros = "9" * 10_000, "0" * 10_000
    assert parse_range(f"bytes=1-{digits}", 5) == ByteRange(first=1, last=4)
    assert parse_range(f"bytes=-{digits}", 5) == ByteRange(first=0, last=4)
    assert parse_range(f"bytes={zeros}1-{zeros}2", 5) == ByteRange(first=1, last=2)
    with pytest.raises(RangeUnsatisfiable):
        parse_range(f"bytes={digits}-", 2**62)


@given(st.text() | st.text(alphabet="bytes=0123456789-, "), st.integers(min_value=0, max_value=2**63))
def test_any_header_gives_a_range_inside_the_body_or_none_or_its_own_error(header: str, size: int) -> None:
    try:
        chosen = parse_range(header, size)
    except RangeUnsatisfiable:
        return
    assert chosen is None or 0 <= chosen.first <= chosen.last < size


@pytest.mark.parametrize("header", [None, "", "bytes=-5", "bytes=0-5", "bytes=0-,5-", "bytes=-", "x"])
def test_only_an_open_range_has_an_open_start(header: str | None) -> None:
    assert open_start(header) is None


@given(offsets, offsets, st.integers(min_value=1, max_value=10))
def test_a_content_range_reads_back_as_it_was_written(first: int, length: int, beyond: int) -> None:
    part = ByteRange(first=first, last=first + length)
    size = part.last + beyond
    assert parse_content_range(part.content_range(size)) == ContentRange(range=part, size_bytes=size)


def test_a_content_range_may_leave_the_size_open() -> None:
    assert parse_content_range("bytes 2-3/*") == ContentRange(range=ByteRange(first=2, last=3), size_bytes=None)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes */5",
        "bytes 3-2/5",
        "bytes 0-5/5",
        "bytes 0-/5",
        "items 0-1/5",
        "bytes 0-1",
        "bytes \u0660-\u0661/\u0665",
    ],
)
def test_a_content_range_that_makes_no_sense_is_none(header: str | None) -> None:
    assert parse_content_range(header) is None


@given(st.text() | st.text(alphabet="bytes 0123456789-/*"))
def test_any_content_range_makes_sense_or_is_none(header: str) -> None:
    part = parse_content_range(header)
    assert part is None or part.range.length > 0
