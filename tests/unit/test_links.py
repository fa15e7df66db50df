from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.http.links import next_page, render_next


@pytest.mark.parametrize(
    ("headers", "target"),
    [
        ([], None),
        ([""], None),
        (["</v2/_catalog>"], None),
        (['</v2/a/tags/list?n=2&last=b>; rel="next"'], "/v2/a/tags/list?n=2&last=b"),
        (["<https://quay.io/v2/a/tags/list?next_page=x,y>;rel=next"], "https://quay.io/v2/a/tags/list?next_page=x,y"),
        (['</1>; rel="prev", </2>; rel="next"'], "/2"),
        (['</1>; rel="prev"', '</2>; title="a, \\"b\\""; REL = "first NEXT"'], "/2"),
        (["</1>; crossorigin; rel=next"], "/1"),
        (["</1>;; rel=next;"], "/1"),
        (['</1>; title="</2>; rel=next"'], None),
        (["</1>; rel=prev; rel=next"], None),
        (["</1>; rel, </2>; rel=next"], "/2"),
        (["</1>; x-rel=next"], None),
        (['</1; rel="next"'], None),
        (["<>; rel=next"], ""),
    ],
)
def test_the_next_page_is_the_first_link_with_that_relation(headers: list[str], target: str | None) -> None:
    assert next_page(headers) == target


names = st.from_regex(r"[a-z0-9]{1,6}(/[a-z0-9]{1,6}){0,3}", fullmatch=True)


@given(names, st.none() | st.integers(min_value=0), st.text())
def test_a_link_reads_back_as_it_was_written(name: str, limit: int | None, last: str) -> None:
    header = render_next(f"/v2/{name}/tags/list", limit=limit, last=last)
    target = next_page([header])

    assert target is not None
    parts = urlsplit(target)
    assert unquote(parts.path) == f"/v2/{name}/tags/list"
    expected = {"last": [last]} if limit is None else {"n": [str(limit)], "last": [last]}
    assert parse_qs(parts.query, keep_blank_values=True) == expected
    assert header.isascii()
    assert header.isprintable()


def test_a_link_is_written_as_the_specification_shows_it() -> None:
    header = render_next("/v2/library/alpine/tags/list", limit=2, last="3.20")
    assert header == '</v2/library/alpine/tags/list?n=2&last=3.20>; rel="next"'


@given(st.lists(st.text() | st.text(alphabet='<>;,="\\ relnxt/')))
def test_no_text_is_an_error(headers: list[str]) -> None:
    target = next_page(headers)
    assert target is None or any(target in header for header in headers)


@pytest.mark.parametrize("pattern", ["<", "<>", "<>;", '<>;a="', "<>;rel=x", ";", '<>;a="\\"', " ", "<> "])
def test_a_long_hostile_header_is_read_in_one_go(pattern: str) -> None:
    assert next_page([pattern * 100_000]) is None
