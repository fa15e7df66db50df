from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import ManifestInvalid
from mirror.oci import media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT_BYTES, parse

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def describe(content: bytes, media_type: str, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content), **more}


def descriptor(content: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.of(content), size_bytes=len(content))


def encode(**fields: object) -> bytes:
    return json.dumps({"schemaVersion": 2} | fields).encode()


IMAGE = encode(config=describe(b"config", CONFIG), layers=[describe(b"one", LAYER), describe(b"two", LAYER)])
INDEX = encode(
    manifests=[describe(b"amd64", media_types.OCI_MANIFEST, platform={"architecture": "amd64", "os": "linux"})]
)


def test_an_image_names_its_config_and_its_layers() -> None:
    manifest = parse(IMAGE, content_type=media_types.DOCKER_MANIFEST)

    assert manifest.media_type == media_types.DOCKER_MANIFEST
    assert manifest.blobs == (descriptor(b"config", CONFIG), descriptor(b"one", LAYER), descriptor(b"two", LAYER))
    assert manifest.manifests == ()


def test_an_index_names_manifests() -> None:
    manifest = parse(INDEX, content_type=media_types.DOCKER_LIST)

    assert manifest.media_type == media_types.DOCKER_LIST
    assert manifest.blobs == ()
    assert manifest.manifests == (descriptor(b"amd64", media_types.OCI_MANIFEST),)


def test_the_layers_that_buildkit_keeps_in_an_index_are_blobs() -> None:
    cache = "application/vnd.buildkit.cacheconfig.v0"
    manifest = parse(encode(manifests=[describe(b"layer", LAYER), describe(b"cache", cache)]), content_type=None)

    assert manifest.blobs == (descriptor(b"layer", LAYER), descriptor(b"cache", cache))
    assert manifest.manifests == ()


def test_a_withdrawn_artifact_manifest_needs_no_schema_version() -> None:
    body = json.dumps({"mediaType": media_types.ARTIFACT_MANIFEST, "blobs": [describe(b"sbom", "text/plain")]}).encode()
    assert parse(body, content_type=None).blobs == (descriptor(b"sbom", "text/plain"),)


def test_what_lies_elsewhere_is_left_out_even_when_its_digest_makes_no_sense() -> None:
    foreign = describe(b"windows", FOREIGN, urls=["https://example.com/"])
    layers = [
        foreign,
        describe(b"x", LAYER, urls=["http://169.254.169.254/"]),
        {"urls": ["x"]},
        describe(b"one", LAYER),
    ]
    assert parse(encode(layers=layers), content_type=None).blobs == (descriptor(b"one", LAYER),)


@pytest.mark.parametrize("empty", [{}, {"layers": None, "config": None}, {"layers": []}, {"manifests": None}])
def test_empty_lists_may_be_null_as_go_writes_them(empty: dict[str, object]) -> None:
    manifest = parse(encode(**empty), content_type=None)
    assert (manifest.blobs, manifest.manifests) == ((), ())


@given(st.sampled_from(["sha256", "sha384", "sha512"]), st.text(alphabet=" \n\t"))
def test_the_bytes_stay_as_they_came_and_the_digest_is_over_them(algorithm: str, space: str) -> None:
    body = space.encode() + IMAGE + space.encode()
    digest = Digest.of(body, algorithm)
    manifest = parse(body, content_type=None, digest=digest)

    assert manifest.body is body
    assert manifest.digest is digest
    assert parse(body, content_type=None).digest == Digest.of(body)


def test_a_body_of_another_digest_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match=f"not {Digest.of(b'other')}"):
        parse(IMAGE, content_type=None, digest=Digest.of(b"other"))


@pytest.mark.parametrize(
    ("content_type", "own", "expected"),
    [
        (media_types.OCI_MANIFEST, media_types.DOCKER_MANIFEST, media_types.OCI_MANIFEST),
        (f"{media_types.DOCKER_MANIFEST}; charset=utf-8", None, media_types.DOCKER_MANIFEST),
        (f" {media_types.DOCKER_MANIFEST.upper()} ;", None, media_types.DOCKER_MANIFEST),
        ("application/vnd.example.future.v1+json", None, "application/vnd.example.future.v1+json"),
        ("application/json; charset=utf-8", media_types.DOCKER_MANIFEST, media_types.DOCKER_MANIFEST),
        ("application/octet-stream", media_types.DOCKER_MANIFEST, media_types.DOCKER_MANIFEST),
        ("text/plain", None, media_types.OCI_MANIFEST),
        ("", "", media_types.OCI_MANIFEST),
        (None, None, media_types.OCI_MANIFEST),
        ("application/vnd.x\r\nSet-Cookie: +json", None, media_types.OCI_MANIFEST),
    ],
)
def test_the_type_is_the_header_s_then_the_body_s_then_inferred(
    content_type: str | None, own: str | None, expected: str
) -> None:
    assert parse(encode(mediaType=own, layers=[]), content_type=content_type).media_type == expected


def test_a_body_with_a_list_of_manifests_is_inferred_to_be_an_index() -> None:
    assert parse(INDEX, content_type="text/plain").media_type == media_types.OCI_INDEX


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<!doctype html><html><body>Sign in</body></html>", id="a web page"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="no version"),
        pytest.param(b'{"schemaVersion": 1, "fsLayers": []}', id="schema1"),
        pytest.param(b'{"schemaVersion": "2"}', id="a version in quotes"),
        pytest.param(b'{"schemaVersion": 2.0}', id="a version with a point"),
        pytest.param(b'{"schemaVersion": true}', id="a boolean version"),
        pytest.param(b'{"errors": [{"code": "TOOMANYREQUESTS"}]}', id="an error with status 200"),
        pytest.param(encode(layers={}), id="layers that are no list"),
        pytest.param(encode(layers=[None]), id="a layer that is null"),
        pytest.param(encode(config=[]), id="a config that is a list"),
        pytest.param(encode(manifests=[describe(b"x", "a/b", size=-1)]), id="a negative size"),
        pytest.param(encode(mediaType="a/b", MediaType="c/d"), id="two types"),
        pytest.param(encode(manifests=[describe(b"x", "a/b+json")], layers=[describe(b"y", LAYER)]), id="two kinds"),
        pytest.param(
            encode(manifests=[describe(b"x", "a/b+json")], config=describe(b"y", LAYER)), id="an index with config"
        ),
        pytest.param(b'{"schemaVersion": 2, "layers": [], "layers": []}', id="a name twice"),
        pytest.param(b'{"schemaVersion": 2, "layers": ' + b"[" * 100_000, id="a nesting bomb"),
        pytest.param(b" " * MANIFEST_LIMIT_BYTES + IMAGE, id="too long"),
    ],
)
def test_what_is_not_plainly_a_manifest_is_refused(body: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        parse(body, content_type=media_types.OCI_MANIFEST)


@pytest.mark.parametrize("own", ["a/b\r\nX: y", "text", "a/b; c=d", "\ud800/x", " "])
def test_a_type_that_would_not_be_safe_as_a_header_is_refused(own: str) -> None:
    with pytest.raises(ManifestInvalid, match="mediaType cannot be"):
        parse(encode(mediaType=own), content_type=None)


def test_a_manifest_may_fill_the_limit() -> None:
    body = IMAGE.ljust(MANIFEST_LIMIT_BYTES)
    assert parse(body, content_type=None).body is body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(describe(b"x", LAYER)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
documents = st.fixed_dictionaries(
    {"schemaVersion": st.just(2)},
    optional=dict.fromkeys(("mediaType", "config", "layers", "blobs", "manifests"), json_values),
)


@given(st.binary() | st.builds(lambda value: json.dumps(value).encode(), documents), st.none() | st.text())
def test_any_bytes_are_a_manifest_or_raise_their_own_error(body: bytes, content_type: str | None) -> None:
    try:
        manifest = parse(body, content_type=content_type)
    except ManifestInvalid:
        return
    assert media_types.is_media_type(manifest.media_type)
    assert manifest.digest == Digest.of(body)
