"""Whatever a client writes, only configured upstreams are meant, and only names that the grammar allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.errors import MirrorError, NameInvalid, NameUnknown
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag, parse_repository_name
from mirror.oci.requests import BlobRequest, CatalogRequest, ManifestRequest, Ping
from mirror.ports import Upstream
from mirror.web.routes import Route, Router, Target, read_target

DIGEST = Digest.of(b"content")


@dataclass(frozen=True, slots=True)
class Named:
    """All that routing looks at of an upstream."""

    name: str


UPSTREAMS = {name: cast("Upstream", Named(name)) for name in ("docker.io", "ghcr.io", "own.example:5000")}
HOSTNAMES = {"ghcr.mirror.test": "ghcr.io", "hub.mirror.test:8080": "docker.io"}
ROUTER = Router(UPSTREAMS, default="docker.io", hostnames=HOSTNAMES, rules={})

parts = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,8})?", fullmatch=True)
names = st.lists(parts, min_size=2, max_size=4).map("/".join)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
UPSTREAM_WORDS = ("ghcr.io", "docker.io", "own.example:5000", "evil.example", "?ns=ghcr.io", "?ns=evil.example")
ENDPOINT_WORDS = ("v2", "manifests", "blobs", "tags", "list", "library", "a", str(DIGEST))
HOSTILE_WORDS = ("..", ".", "", "A", "%2f", "%00", "%2e%2e", "é", "@", ":")
pieces = st.sampled_from([*UPSTREAM_WORDS, *ENDPOINT_WORDS, *HOSTILE_WORDS])
visible = st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
hosts = st.one_of(st.sampled_from(["", "mirror.test", "ghcr.mirror.test:5000", "evil.example"]), st.text(max_size=20))


def route(raw_target: str, host: str = "mirror.test") -> Route:
    return ROUTER.route(read_target(raw_target), host)


def repository_of(raw_target: str, host: str = "mirror.test") -> str:
    return str(route(raw_target, host).repository)


# Which upstream


@pytest.mark.parametrize(
    ("raw_target", "repository"),
    [
        ("/v2/alpine/manifests/1", "docker.io/library/alpine"),
        ("/v2/a/b/manifests/1", "docker.io/a/b"),
        ("/v2/ghcr.io/a/manifests/1", "ghcr.io/a"),
        ("/v2/own.example:5000/a/manifests/1", "own.example:5000/a"),
        ("/ghcr.io/v2/a/b/manifests/1", "ghcr.io/a/b"),
        ("/v2/a/b/manifests/1?ns=ghcr.io", "ghcr.io/a/b"),
        ("/v2/ghcr.io/manifests/1", "docker.io/library/ghcr.io"),  # nothing after it: a name like another
        ("/v2/v2/manifests/manifests/1", "docker.io/v2/manifests"),
        ("http://mirror.test/v2/alpine/manifests/1", "docker.io/library/alpine"),
        ("/v2/alp%69ne/manifests/1", "docker.io/library/alpine"),
    ],
)
def test_a_path_means_one_repository(raw_target: str, repository: str) -> None:
    assert repository_of(raw_target) == repository


@given(name=names, tag=tags)
def test_every_way_to_name_an_upstream_means_the_same(name: str, tag: str) -> None:
    ways = [
        (f"/v2/ghcr.io/{name}/manifests/{tag}", "mirror.test"),
        (f"/ghcr.io/v2/{name}/manifests/{tag}", "mirror.test"),
        (f"/v2/{name}/manifests/{tag}?ns=ghcr.io", "mirror.test"),
        (f"/v2/ghcr.io/{name}/manifests/{tag}?ns=ghcr.io", "mirror.test"),
        (f"/v2/{name}/manifests/{tag}", "ghcr.mirror.test"),
        (f"/v2/{name}/manifests/{tag}", "GHCR.mirror.test:443"),
    ]
    for raw_target, host in ways:
        found = route(raw_target, host)
        assert found.repository == Repository("ghcr.io", name)
        assert isinstance(found.request, ManifestRequest)
        assert found.request.reference == Tag(tag)


@given(name=names)
def test_percent_encoding_changes_nothing(name: str) -> None:
    encoded = "".join(f"%{ord(character):02x}" if character != "/" else "/" for character in name)
    found = route(f"/v2/docker.io/{encoded}/blobs/{quote(str(DIGEST), safe='')}")
    assert found.repository == Repository("docker.io", name)
    assert found.request == BlobRequest(name=f"docker.io/{name}", digest=DIGEST)


def test_ns_goes_before_host_and_host_before_the_path() -> None:
    assert repository_of("/own.example:5000/v2/a/b/manifests/1?ns=docker.io", "ghcr.mirror.test") == "docker.io/a/b"
    assert repository_of("/own.example:5000/v2/a/b/manifests/1", "ghcr.mirror.test") == "ghcr.io/a/b"
    assert repository_of("/v2/ghcr.io/a/manifests/1", "hub.mirror.test:8080") == "docker.io/ghcr.io/a"


@given(st.text(min_size=1, max_size=40).filter(lambda text: text not in UPSTREAMS))
@example("169.254.169.254")
@example("docker.io:443")
@example("DOCKER.IO")
@example("docker.io ")
def test_an_unknown_namespace_is_refused(namespace: str) -> None:
    with pytest.raises((NameUnknown, NameInvalid)):
        route(f"/v2/a/b/manifests/1?{urlencode({'ns': namespace})}")


@pytest.mark.parametrize("raw_target", ["/v2/", "/v2", "/ghcr.io/v2/", "/ghcr.io/v2"])
def test_a_ping_is_about_no_repository(raw_target: str) -> None:
    assert route(raw_target) == Route(request=Ping())
    assert isinstance(route(f"{raw_target.rstrip('/')}/_catalog").request, CatalogRequest)


# Whatever a client writes


def assert_closed(raw_target: str, host: str) -> None:
    """Either one of our errors, or a valid name in a configured upstream."""
    found, refusal = None, ""
    try:
        found = route(raw_target, host)
    except MirrorError as error:
        refusal = str(error)
    assert refusal.isascii()
    assert refusal.isprintable()
    if found is None:
        return
    if found.repository is None:
        assert isinstance(found.request, (Ping, CatalogRequest))
        return
    assert found.upstream is UPSTREAMS[found.repository.upstream]
    assert parse_repository_name(found.repository.name) == found.repository.name
    assert ".." not in found.repository.name.split("/")


@given(raw_target=st.text(max_size=120), host=hosts)
def test_any_text_is_one_of_our_errors_or_one_of_our_upstreams(raw_target: str, host: str) -> None:
    assert_closed(raw_target, host)
    assert_closed(f"/v2/{raw_target}", host)


@given(path=st.lists(pieces, max_size=9).map("/".join), host=hosts)
@example(path="v2/own.example:5000/a/manifests/1?ns=ghcr.io", host="")
@example(path="v2/evil.example:80/a/manifests/1?ns=ghcr.io", host="")
def test_plausible_text_is_too(path: str, host: str) -> None:
    assert_closed(f"/{path}", host)


@given(st.binary(max_size=60))
@example(b"\0")
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """What a parser hands on of bytes that are not UTF-8 has surrogates in it."""
    try:
        target = read_target("/" + raw.decode("utf-8", "surrogateescape"))
    except NameInvalid:
        return
    assert target.path.isascii()
    assert "\0" not in target.path


@given(before=visible, after=visible)
def test_nothing_is_decoded_twice(before: str, after: str) -> None:
    path = f"{before}%{after}"
    target = read_target("/" + "".join(f"%{ord(character):02x}" for character in path if character not in "/\\"))
    assert target == Target(path="/" + path.replace("/", "").replace("\\", ""), query={})


@pytest.mark.parametrize("encoded", ["%2f", "%2F", "%5c", "%5C", "%00"])
def test_an_encoded_separator_is_refused(encoded: str) -> None:
    with pytest.raises(NameInvalid):
        read_target(f"/v2/library{encoded}app/manifests/1")
    assert read_target(f"/v2/library%25{encoded[1:]}app/manifests/1").path == f"/v2/library{encoded}app/manifests/1"


def test_the_first_of_two_parameters_counts() -> None:
    assert read_target("/v2/?ns=a&ns=b&x").query == {"ns": "a", "x": ""}
