"""An image layout: the files in which images are carried from one place to another.

    oci-layout                 which version of the layout it is
    index.json                 the images, each with its name as an annotation
    blobs/<algorithm>/<hex>    manifests, configs and layers

Spec: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mirror.errors import DigestInvalid, ManifestInvalid
from mirror.oci import descriptor
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.documents import load_object
from mirror.oci.media_types import OCI_INDEX

MARKER_NAME: Final = "oci-layout"
INDEX_NAME: Final = "index.json"
MARKER: Final = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_LIMIT_BYTES: Final = 4 * 1024 * 1024
_BLOBS: Final = "blobs/"
_VERSION: Final = "1."
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME: Final = "io.containerd.image.name"  # BuildKit's and Docker's too, always the whole name


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a layout: its manifest or index, and its name where one is given."""

    descriptor: Descriptor
    name: str | None


def blob_name(digest: Digest) -> str:
    """Return where a blob is."""
    return f"{_BLOBS}{digest.algorithm}/{digest.encoded}"


def read_blob_name(name: str) -> Digest | None:
    """Return which blob is in a file; None where the file is for something else.

    Raises:
        DigestInvalid: it is among the blobs, and its name is no digest.
    """
    if not name.startswith(_BLOBS):
        return None
    algorithm, slash, encoded = name.removeprefix(_BLOBS).partition("/")
    if not slash:
        raise DigestInvalid(f"a blob's file is called blobs/ALGORITHM/HEX, not {name!a}")
    return Digest(algorithm, encoded)


def render_index(images: Iterable[tuple[str, Descriptor]]) -> bytes:
    """Write ``index.json``; each name stands where skopeo and podman look for it, and where containerd does."""
    entries = [
        {
            "mediaType": one.media_type,
            "digest": str(one.digest),
            "size": one.size_bytes,
            "annotations": {_CONTAINERD_NAME: name, _REF_NAME: name},
        }
        for name, one in images
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def check_marker(body: bytes) -> None:
    """Make sure that this is a layout that can be read.

    Raises:
        ManifestInvalid: it is something else, or of another version.
    """
    version = load_object(body).get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith(_VERSION):
        raise ManifestInvalid(f"the image layout is of version {str(version)[:20]!a}, and only 1 is known")


def read_index(body: bytes) -> Sequence[Entry]:
    """Read ``index.json``.

    Raises:
        ManifestInvalid: it is not an index.
    """
    entries = load_object(body).get("manifests")
    if not isinstance(entries, list):
        raise ManifestInvalid(f"{INDEX_NAME} lists no manifests")
    return [Entry(descriptor.read(entry), _name(entry)) for entry in entries]


def _name(entry: Mapping[str, object]) -> str | None:
    annotations = entry.get("annotations")
    if not isinstance(annotations, dict):
        return None
    names = (annotations.get(key) for key in (_CONTAINERD_NAME, _REF_NAME))
    return next((name for name in names if isinstance(name, str) and name), None)
