from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import ManifestInvalid
from mirror.oci.documents import check_object, load_object

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(st.dictionaries(st.text(), values))
def test_an_object_reads_back_as_it_was_written(value: dict[str, object]) -> None:
    assert load_object(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'"text"', "not an object"),
        (b"{}{}", "not JSON"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "\\u0062": 1}}', "twice"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"\n <html>", "an HTML page"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[" * 1_000_000, "nested too deeply"),
    ],
)
def test_what_is_not_one_plain_object_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ManifestInvalid, match=reason):
        load_object(body)


@given(st.binary())
def test_any_bytes_are_an_object_or_raise_their_own_error(body: bytes) -> None:
    try:
        value = load_object(body)
    except ManifestInvalid:
        return
    assert isinstance(value, dict)


NAMES = frozenset({"digest", "urls", "links"})


@pytest.mark.parametrize("name", ["Digest", "DIGEST", "url\u017f", "lin\u212as"])
def test_a_name_that_only_differs_in_case_is_refused_as_go_would_read_it(name: str) -> None:
    with pytest.raises(ManifestInvalid, match="wrong case"):
        check_object({"digest": 1, name: 2}, NAMES, what="a descriptor")


def test_unknown_names_are_left_alone() -> None:
    value = {"digest": 1, "annotations": {"Digest": "of something else"}, "digests": 2}
    assert check_object(value, NAMES, what="a descriptor") is value


@pytest.mark.parametrize("value", [None, [], "digest", 1, True])
def test_what_is_not_an_object_is_refused(value: object) -> None:
    with pytest.raises(ManifestInvalid, match="a descriptor is not an object"):
        check_object(value, NAMES, what="a descriptor")
