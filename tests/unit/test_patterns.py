"""Patterns of repositories: what they match, and what allowing and denying come to together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import NameInvalid
from mirror.oci.patterns import RepositoryPattern, Rules

segments = st.from_regex(r"[a-z0-9]{1,5}([._-][a-z0-9]{1,3})?", fullmatch=True)
names = st.lists(segments, min_size=1, max_size=4).map("/".join)


def patterns(*texts: str) -> list[RepositoryPattern]:
    return [RepositoryPattern.parse(text) for text in texts]


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("library/alpine", "library/alpine", True),
        ("library/alpine", "library/alpine-edge", False),
        ("library/*", "library/alpine", True),
        ("library/*", "library/a/b", False),
        ("library/*", "library", False),
        ("library/**", "library/a/b", True),
        ("**", "a/b/c", True),
        ("*", "a/b", False),
        ("**/secret", "a/b/secret", True),
        ("**/secret", "secret", False),
        ("team-*/app", "team-a/app", True),
        ("team-*/app", "team-a/b/app", False),
        ("a.b/c", "axb/c", False),
    ],
)
def test_what_a_pattern_matches(pattern: str, name: str, *, matches: bool) -> None:
    assert RepositoryPattern.parse(pattern).matches(name) is matches


@pytest.mark.parametrize("text", ["", "/a", "a/", "a//b", "A/b", "a b", "a:b", "../x/[a]", "é", "x" * 256])
def test_what_no_name_could_match_is_no_pattern(text: str) -> None:
    with pytest.raises(NameInvalid):
        RepositoryPattern.parse(text)


@given(names)
def test_a_name_matches_itself_and_what_stands_for_everything(name: str) -> None:
    assert all(pattern.matches(name) for pattern in patterns(name, "**"))
    assert RepositoryPattern.parse("*").matches(name) is ("/" not in name)


def test_all_is_allowed_where_nothing_is_said_and_denial_wins() -> None:
    assert Rules().permit("a/b")
    assert not Rules(allow=patterns("a/*")).permit("b/b")
    assert Rules(allow=patterns("a/*", "b/*")).permit("b/b")
    assert not Rules(allow=patterns("a/*"), deny=patterns("a/b")).permit("a/b")
    assert Rules(deny=patterns("a/b")).permit("a/c")
