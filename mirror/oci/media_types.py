"""Media types that the mirror has to know; every other one is opaque.

Spec: https://github.com/opencontainers/image-spec/blob/v1.1.1/media-types.md
"""

from __future__ import annotations

import re
from typing import Final

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
ARTIFACT_MANIFEST: Final = "application/vnd.oci.artifact.manifest.v1+json"
"""Withdrawn before image-spec 1.1, but pushed by some for a while; the one manifest without a ``schemaVersion``."""
OCTET_STREAM: Final = "application/octet-stream"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES: Final = frozenset({OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST})
MANIFEST_ACCEPT: Final = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*")
"""What an upstream is asked with, whatever the client accepts: an upstream that misses a type here converts or lies."""

_FOREIGN_LAYERS: Final = (
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
)
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE: Final = re.compile(rf"{_NAME}/{_NAME}")
_VENDOR_JSON: Final = re.compile(r"application/vnd\.[a-z0-9!#$&^_.+-]{1,120}\+json")


def is_foreign_layer(media_type: str) -> bool:
    """Tell whether a layer of this type lies elsewhere, by its publisher's wish, and not in the registry."""
    return any(media_type == known or media_type.startswith(f"{known}+") for known in _FOREIGN_LAYERS) or (
        media_type == f"{_FOREIGN_LAYERS[0]}.gzip"
    )


def is_media_type(text: str) -> bool:
    """Tell whether text is one media type without parameters, and so is safe as ``Content-Type`` (RFC 6838)."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def is_vendor_json(media_type: str) -> bool:
    """Tell whether a type names a particular kind of JSON, as every kind of manifest does, known to us or not."""
    return _VENDOR_JSON.fullmatch(media_type) is not None
