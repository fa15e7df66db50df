from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import (
    DigestInvalid,
    InvalidRequest,
    MirrorError,
    NameInvalid,
    NameUnknown,
    PageInvalid,
    ReferenceInvalid,
    Unsupported,
)
from mirror.oci.digest import Digest
from mirror.oci.reference import Tag
from mirror.oci.requests import (
    BlobRequest,
    CatalogRequest,
    Kind,
    ManifestRequest,
    Page,
    Ping,
    ReferrersRequest,
    TagsRequest,
    parse_page,
    parse_path,
)

DIGEST = Digest.of(b"content")
words = st.sampled_from(["manifests", "blobs", "tags", "list", "referrers", "uploads", "library", "ghcr.io", "v2", "a"])
names = st.lists(words, min_size=1, max_size=6).map("/".join)
tags = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}", fullmatch=True)


@pytest.mark.parametrize("path", ["", "/"])
def test_nothing_after_v2_is_a_ping(path: str) -> None:
    assert parse_path(path) == Ping()


@given(names, tags)
def test_a_manifest_is_found_whatever_words_its_name_has(name: str, tag: str) -> None:
    assert parse_path(f"/{name}/manifests/{tag}") == ManifestRequest(name=name, reference=Tag(tag))
    assert parse_path(f"{name}/manifests/{DIGEST}") == ManifestRequest(name=name, reference=DIGEST)


@given(names)
def test_the_other_endpoints_are_found_whatever_words_the_name_has(name: str) -> None:
    assert parse_path(f"{name}/blobs/{DIGEST}") == BlobRequest(name=name, digest=DIGEST)
    assert parse_path(f"{name}/tags/list") == TagsRequest(name=name, page=Page())
    assert parse_path(f"{name}/referrers/{DIGEST}") == ReferrersRequest(name=name, digest=DIGEST, artifact_type=None)


def test_the_query_says_which_part_is_wanted() -> None:
    query = {"n": "10", "last": "v1", "artifactType": "application/spdx+json", "ns": "docker.io"}

    assert parse_path("_catalog", query) == CatalogRequest(page=Page(limit=10, last="v1"))
    assert parse_path("alpine/tags/list", query) == TagsRequest(name="alpine", page=Page(limit=10, last="v1"))
    assert parse_path(f"alpine/referrers/{DIGEST}", query) == ReferrersRequest(
        name="alpine", digest=DIGEST, artifact_type="application/spdx+json"
    )


def test_every_request_knows_its_kind() -> None:
    paths = ["", "_catalog", "a/manifests/b", f"a/blobs/{DIGEST}", "a/tags/list", f"a/referrers/{DIGEST}"]
    kinds = [Kind.OTHER, Kind.OTHER, Kind.MANIFEST, Kind.BLOB, Kind.TAGS, Kind.REFERRERS]
    assert [parse_path(path).kind for path in paths] == kinds


def test_a_name_may_begin_with_an_upstream_and_its_port() -> None:
    request = ManifestRequest(name="harbor.local:8443/team/app", reference=Tag("v1"))
    assert parse_path("harbor.local:8443/team/app/manifests/v1") == request


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("v2", NameUnknown),
        ("alpine", NameUnknown),
        ("alpine/", NameUnknown),
        ("alpine/tags", NameUnknown),
        ("alpine/tags/list/", NameUnknown),
        ("alpine/tags/latest", NameUnknown),
        ("_catalog/", NameUnknown),
        ("_oci/ext/discover", NameUnknown),
        ("alpine/manifest/latest", NameUnknown),
        ("../../etc/passwd", NameUnknown),
        ("alpine/blobs/uploads", Unsupported),
        ("alpine/blobs/uploads/", Unsupported),
        ("alpine/blobs/uploads/0-1-2", Unsupported),
        ("manifests/latest", NameInvalid),
        ("/manifests/latest", NameInvalid),
        ("//manifests/latest", NameInvalid),
        ("../manifests/latest", NameInvalid),
        ("a/../b/manifests/latest", NameInvalid),
        ("Alpine/manifests/latest", NameInvalid),
        ("alpine//manifests/latest", NameInvalid),
        ("al\0pine/manifests/latest", NameInvalid),
        ("alpine%2f/manifests/latest", NameInvalid),
        ("alpine\n/manifests/latest", NameInvalid),
        (f"{'a' * 256}/manifests/latest", NameInvalid),
        (f"h:1/{'a' * 255}/manifests/latest", NameInvalid),
        ("localhost:5000/manifests/latest", NameInvalid),
        ("a:b/c/manifests/latest", NameInvalid),
        ("a:1/b:2/c/manifests/latest", NameInvalid),
        ("alpine/manifests/", ReferenceInvalid),
        ("alpine/manifests/..", ReferenceInvalid),
        ("alpine/manifests/a b", ReferenceInvalid),
        ("alpine/manifests/%2e%2e", ReferenceInvalid),
        (f"alpine/manifests/{'a' * 129}", ReferenceInvalid),
        ("alpine/manifests/sha256:abc", DigestInvalid),
        ("alpine/blobs/", DigestInvalid),
        ("alpine/blobs/latest", DigestInvalid),
        (f"alpine/blobs/{str(DIGEST).upper()}", DigestInvalid),
        ("alpine/referrers/latest", DigestInvalid),
    ],
)
def test_what_is_no_request_says_why(path: str, error: type[MirrorError]) -> None:
    with pytest.raises(error) as caught:
        parse_path(path)
    assert type(caught.value) is error
    assert str(caught.value).isascii()


@given(st.integers(min_value=0, max_value=10**9 - 1), st.text(alphabet="abc019._-/", min_size=1, max_size=255))
def test_a_page_is_read_as_it_was_written(limit: int, last: str) -> None:
    assert parse_page({"n": str(limit), "last": last}) == Page(limit=limit, last=last)


def test_empty_parameters_count_as_none() -> None:
    assert parse_page({"n": "", "last": ""}) == Page()


@pytest.mark.parametrize("count", ["-1", "+1", "1.0", "1e3", " 1", "1\n", "\u0663", "x", "9" * 10, "9" * 5000, "1_000"])
def test_a_number_of_entries_is_a_few_digits(count: str) -> None:
    with pytest.raises(PageInvalid):
        parse_page({"n": count})


@pytest.mark.parametrize("text", ["a\0", "a\r\nX: y", "ä", "a" * 256])
def test_a_parameter_that_is_passed_on_is_short_and_printable(text: str) -> None:
    with pytest.raises(PageInvalid):
        parse_page({"last": text})
    with pytest.raises(InvalidRequest, match="artifactType"):
        parse_path(f"alpine/referrers/{DIGEST}", {"artifactType": text})


paths = st.text() | st.lists(words | st.text(max_size=5) | st.just(str(DIGEST)), max_size=8).map("/".join)


@given(paths, st.dictionaries(st.sampled_from(["n", "last", "artifactType"]), st.text()))
def test_any_path_is_a_request_or_raises_an_error_of_the_client(path: str, query: dict[str, str]) -> None:
    try:
        request = parse_path(path, query)
    except (InvalidRequest, NameUnknown, Unsupported):
        return
    assert request.kind in Kind
