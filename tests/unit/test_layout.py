from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid, ManifestInvalid
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.layout import MARKER, Entry, blob_name, check_marker, read_blob_name, read_index, render_index
from mirror.oci.media_types import OCI_INDEX

descriptors = st.builds(
    lambda content: Descriptor(media_type=OCI_INDEX, digest=Digest.of(content), size_bytes=len(content)), st.binary()
)


@given(st.lists(st.tuples(st.text(min_size=1), descriptors)))
def test_an_index_reads_back_as_it_was_written(images: list[tuple[str, Descriptor]]) -> None:
    assert read_index(render_index(images)) == [Entry(descriptor, name) for name, descriptor in images]


@given(st.binary(), st.sampled_from(["sha256", "sha384", "sha512"]))
def test_the_name_of_a_blob_is_its_digest(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert read_blob_name(blob_name(digest)) == digest


@given(st.text())
def test_any_other_name_is_none_of_a_blob(name: str) -> None:
    assert read_blob_name(name.removeprefix("blobs/")) is None
    with pytest.raises(DigestInvalid):
        read_blob_name(f"blobs/{name}")


def test_containerds_name_is_the_whole_one() -> None:
    """Where both are there, the other is often only a tag."""
    (entry,) = read_index(
        render_index([("whole", Descriptor(media_type=OCI_INDEX, digest=Digest.of(b""), size_bytes=0))])
    )
    names = {"org.opencontainers.image.ref.name": "3.20", "io.containerd.image.name": "docker.io/library/alpine:3.20"}
    described = {"mediaType": OCI_INDEX, "digest": str(entry.descriptor.digest), "size": 0}
    body = json.dumps({"manifests": [described | {"annotations": names}, described, described | {"annotations": 1}]})
    assert [one.name for one in read_index(body.encode())] == ["docker.io/library/alpine:3.20", None, None]


@pytest.mark.parametrize("body", [b"{}", b'{"imageLayoutVersion": 1}', b'{"imageLayoutVersion": "2.0"}', b"1", b""])
def test_only_a_layout_of_version_1_is_one(body: bytes) -> None:
    check_marker(MARKER)
    with pytest.raises(ManifestInvalid):
        check_marker(body)
