from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import ManifestInvalid
from mirror.oci.descriptor import SIZE_LIMIT_BYTES, Descriptor, lies_elsewhere, read
from mirror.oci.digest import Digest

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DIGEST = Digest.of(b"content")
VALID: dict[str, object] = {"mediaType": LAYER, "digest": str(DIGEST), "size": 7}


@given(st.binary(), st.integers(min_value=0, max_value=SIZE_LIMIT_BYTES))
def test_a_descriptor_is_read_from_the_wire_s_names(content: bytes, size: int) -> None:
    digest = Digest.of(content)
    value = {"mediaType": LAYER, "digest": str(digest), "size": size, "annotations": {"Size": "x"}, "platform": {}}
    assert read(value) == Descriptor(media_type=LAYER, digest=digest, size_bytes=size)


@pytest.mark.parametrize(
    "size",
    [None, True, False, -1, 7.0, float("nan"), float("inf"), "7", [7], SIZE_LIMIT_BYTES + 1, 10**5000],
    ids=lambda size: type(size).__name__,
)
def test_a_size_that_is_no_number_of_bytes_is_refused(size: object) -> None:
    with pytest.raises(ManifestInvalid, match="no usable size"):
        read(VALID | {"size": size})


@pytest.mark.parametrize("media_type", [None, "", 7, "a/b\r\nX: y", "a/b\0", "ä/b", "a" * 256, "\ud800"])
def test_a_media_type_that_cannot_be_is_refused(media_type: object) -> None:
    with pytest.raises(ManifestInvalid, match="no usable mediaType"):
        read(VALID | {"mediaType": media_type})


@pytest.mark.parametrize(
    "digest", [None, 7, "", "sha256:../../etc/passwd", str(DIGEST).upper(), f"{DIGEST}\n", "md5:00"]
)
def test_a_digest_that_cannot_be_is_refused(digest: object) -> None:
    with pytest.raises(ManifestInvalid, match="digest"):
        read(VALID | {"digest": digest})


@pytest.mark.parametrize("name", ["mediaType", "digest", "size"])
def test_a_descriptor_needs_its_three_properties(name: str) -> None:
    with pytest.raises(ManifestInvalid):
        read({key: value for key, value in VALID.items() if key != name})


def test_a_second_digest_in_another_case_is_refused() -> None:
    with pytest.raises(ManifestInvalid, match="wrong case"):
        read(VALID | {"Digest": str(Digest.of(b"private"))})


@pytest.mark.parametrize(
    ("fields", "elsewhere"),
    [
        ({}, False),
        ({"urls": []}, False),
        ({"urls": None}, False),
        ({"urls": ["https://example.com/layer"]}, True),
        ({"urls": "http://169.254.169.254/"}, True),
        ({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, True),
        ({"mediaType": None}, False),
    ],
)
def test_content_with_addresses_of_its_own_lies_elsewhere(fields: dict[str, object], elsewhere: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert lies_elsewhere(VALID | fields) is elsewhere


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.one_of(json_values, st.fixed_dictionaries({name: json_values | st.just(VALID[name]) for name in VALID})))
def test_any_value_is_a_descriptor_or_raises_its_own_error(value: object) -> None:
    lies_elsewhere(value)
    try:
        descriptor = read(value)
    except ManifestInvalid:
        return
    assert 0 <= descriptor.size_bytes <= SIZE_LIMIT_BYTES
