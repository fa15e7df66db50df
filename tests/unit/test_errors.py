from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror import errors

CLASSES = [
    member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, errors.MirrorError)
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_says_what_it_is_for(error: type[errors.MirrorError]) -> None:
    assert "__doc__" in vars(error)


def test_only_an_outage_is_worth_an_immediate_second_try() -> None:
    assert {error.__name__ for error in CLASSES if error.retryable} == {"UpstreamUnreachable", "UpstreamFailed"}


def test_an_error_prints_as_its_message_and_keeps_its_facts() -> None:
    limited = errors.RateLimited("docker.io answered 429", upstream="docker.io", retry_after_seconds=34.0)
    unsatisfiable = errors.RangeUnsatisfiable("too far", size_bytes=7)

    assert (str(limited), limited.upstream, limited.retry_after_seconds) == (
        "docker.io answered 429",
        "docker.io",
        34.0,
    )
    assert (str(unsatisfiable), unsatisfiable.size_bytes) == ("too far", 7)


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_quoted_text_is_one_short_line_of_ascii(text: str) -> None:
    quoted = errors.quote(text)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert len(quoted) <= 1010  # a hundred characters, each at most ten when escaped
