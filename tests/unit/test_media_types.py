from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci import media_types


def test_the_upstream_is_asked_for_every_manifest_type_and_anything_else() -> None:
    assert set(media_types.MANIFEST_ACCEPT) == media_types.MANIFEST_TYPES | {"*/*"}
    assert media_types.INDEX_TYPES < media_types.MANIFEST_TYPES


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ],
)
def test_a_foreign_layer_is_known_by_its_type(media_type: str) -> None:
    assert media_types.is_foreign_layer(media_type)


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.config.v1+json",
    ],
)
def test_other_layers_are_not_foreign(media_type: str) -> None:
    assert not media_types.is_foreign_layer(media_type)


@pytest.mark.parametrize("media_type", sorted(media_types.MANIFEST_TYPES | {media_types.ARTIFACT_MANIFEST}))
def test_every_kind_of_manifest_is_vendor_json(media_type: str) -> None:
    assert media_types.is_vendor_json(media_type)
    assert media_types.is_media_type(media_type)


@pytest.mark.parametrize(
    "text", ["", "text", "text/", "/html", "text/html; charset=utf-8", "a/b/c", "a/b\r\nX: y", "a/b\n", "ä/b", "a /b"]
)
def test_what_is_not_exactly_a_media_type_is_not_taken_for_one(text: str) -> None:
    assert not media_types.is_media_type(text)


@given(st.text())
def test_a_media_type_is_safe_as_a_header(text: str) -> None:
    if media_types.is_media_type(text) or media_types.is_vendor_json(text):
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
