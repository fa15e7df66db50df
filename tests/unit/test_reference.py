from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid, InvalidRequest, NameInvalid, ReferenceInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag, parse_reference, parse_repository_name

SEGMENT = r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}"
names = st.from_regex(rf"{SEGMENT}(/{SEGMENT}){{0,4}}", fullmatch=True)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", fullmatch=True)


@given(tags)
def test_a_tag_reads_back_as_it_was_written(text: str) -> None:
    assert str(Tag.parse(text)) == text
    assert parse_reference(text) == Tag(text)


@given(st.binary())
def test_a_reference_with_a_colon_is_a_digest(content: bytes) -> None:
    digest = Digest.of(content)
    assert parse_reference(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-dash",
        "a/b",
        "a b",
        "a\n",
        "a\0",
        "a%2fb",
        "é",
        "\u0663",
        "a" * 129,
        "a\u2024b",
        "../../x",
    ],
)
def test_what_is_not_exactly_a_tag_is_refused(text: str) -> None:
    with pytest.raises(ReferenceInvalid):
        Tag.parse(text)


def test_a_tag_may_have_128_characters() -> None:
    assert Tag.parse("a" * 128).name == "a" * 128


@pytest.mark.parametrize("text", ["latest:", ":latest", "sha256:abc", "localhost:5000"])
def test_a_reference_with_a_colon_is_never_a_tag(text: str) -> None:
    with pytest.raises(DigestInvalid):
        parse_reference(text)


@given(names)
def test_a_name_of_the_grammar_is_taken_as_it_is(name: str) -> None:
    assert parse_repository_name(name) == name


@pytest.mark.parametrize(
    "name", ["alpine", "library/alpine", "ghcr.io/owner/name", "a__b", "a---b", "0", "a/b/c/d/e/f"]
)
def test_names_that_people_use_are_taken(name: str) -> None:
    assert parse_repository_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "Alpine",
        "a___b",
        "a..b",
        "a._b",
        "-a",
        "a-",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        "a%2fb",
        "a\\b",
        "a b",
        "a\n",
        "a\0b",
        "ä",
        "a\u0663",
        "localhost:5000/a",
        "a@b",
        "a" * 256,
        "a/" * 127 + "ab",
    ],
)
def test_what_is_not_exactly_a_name_is_refused(name: str) -> None:
    with pytest.raises(NameInvalid):
        parse_repository_name(name)
    with pytest.raises(NameInvalid):
        Repository("docker.io", name)


def test_a_name_may_have_255_characters() -> None:
    assert len(parse_repository_name("a/" * 127 + "a")) == 255


def test_a_repository_is_written_with_its_upstream() -> None:
    assert str(Repository("docker.io", "library/alpine")) == "docker.io/library/alpine"


@given(st.text())
def test_any_text_is_a_reference_or_raises_its_own_error(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidRequest:
        return
    assert str(reference) == text


@given(st.one_of(st.text(), st.text(alphabet="aZ09._-/:%\0\n", max_size=300)))
def test_any_text_is_a_name_or_raises_its_own_error(text: str) -> None:
    try:
        name = parse_repository_name(text)
    except NameInvalid:
        return
    assert name == text
    assert len(name) <= 255
    assert not {"", ".", ".."} & set(name.split("/"))


@given(names)
def test_a_repository_reads_back_as_it_was_written(name: str) -> None:
    repository = Repository("docker.io", name)
    assert Repository.parse(str(repository)) == repository


@pytest.mark.parametrize("text", ["", "docker.io", "docker.io/", "docker.io/UPPER"])
def test_what_was_written_by_no_repository_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        Repository.parse(text)
