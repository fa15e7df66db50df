from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest

ALGORITHMS = ["sha256", "sha384", "sha512"]
HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@given(st.binary(), st.sampled_from(ALGORITHMS))
def test_a_digest_reads_back_as_it_was_written(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)

    assert Digest.parse(str(digest)) == digest
    assert hash(Digest.parse(str(digest))) == hash(digest)
    assert digest.encoded == hashlib.new(algorithm, content).hexdigest()


@given(st.lists(st.binary(), min_size=1), st.sampled_from(ALGORITHMS))
def test_a_digest_matches_its_content_in_any_pieces_and_no_other(pieces: list[bytes], algorithm: str) -> None:
    digest = Digest.of(b"".join(pieces), algorithm)
    hasher = digest.hasher()
    for piece in pieces:
        hasher.update(piece)

    assert digest.matches(hasher)
    hasher.update(b"!")
    assert not digest.matches(hasher)


def test_the_default_algorithm_is_sha256() -> None:
    assert str(Digest.of(b"hello")) == f"sha256:{HELLO}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        HELLO,
        f"sha256:{HELLO[:-1]}",
        f"sha256:{HELLO}0",
        f"sha256:{HELLO.upper()}",
        f"SHA256:{HELLO}",
        f"sha512:{HELLO}",
        f"md5:{HELLO[:32]}",
        f"blake3:{HELLO}",
        f" sha256:{HELLO}",
        f"sha256:{HELLO}\n",
        f"sha256:{HELLO}\0",
        f"sha256::{HELLO[1:]}",
        f"sha256+b64:{HELLO}",
        f"sha256:{HELLO[:-1]}/",
        f"sha256:../../{HELLO[6:]}",
        f"sha256:{HELLO[:-1]}\u0663",
        f"sha256:{HELLO[:-1]}g",
        f"sha256:{HELLO}@sha256:{HELLO}",
    ],
)
def test_what_is_not_exactly_a_digest_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid) as caught:
        Digest.parse(text)
    assert str(caught.value).isascii()


def test_an_invalid_digest_cannot_be_built_at_all() -> None:
    with pytest.raises(DigestInvalid):
        Digest("sha256", "../../etc/passwd")
    with pytest.raises(DigestInvalid, match="unknown digest algorithm 'md5'"):
        Digest.of(b"hello", "md5")


@given(st.one_of(st.text(), st.from_regex(r"(sha256|sha512|md5):[0-9a-fA-F]{60,130}")))
def test_any_text_is_a_digest_or_raises_its_own_error(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        return
    assert str(digest) == text
