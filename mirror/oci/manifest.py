"""Manifests and indexes: what they name, read from the very bytes that their digest is over.

Spec: https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md,
https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mirror.errors import ManifestInvalid, quote
from mirror.oci import descriptor, media_types
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.documents import check_object, load_object

MANIFEST_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""What registries accept at least, and clients at most."""
DESCRIPTOR_LIMIT: Final = 10_000
"""Far more than any image or artifact has; each is remembered."""

_SCHEMA_VERSION: Final = 2
_WIRE_NAMES: Final = frozenset({"schemaVersion", "mediaType", "config", "layers", "blobs", "manifests"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest or an index: its bytes as they came, and what of its content the registry holds.

    ``blobs`` leaves out what lies elsewhere (`mirror.oci.descriptor.lies_elsewhere`). ``manifests`` is an index's
    list, in its order; entries that are no manifests (BuildKit keeps a cache's layers there) are among ``blobs``.
    """

    media_type: str
    digest: Digest
    body: bytes
    blobs: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]

    @property
    def descriptor(self) -> Descriptor:
        """What names it."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size_bytes=len(self.body))


def parse(body: bytes, *, content_type: str | None, digest: Digest | None = None) -> Manifest:
    """Read a manifest as an upstream sent it.

    Args:
        body: at most `MANIFEST_LIMIT_BYTES`; kept as it is, never written anew.
        content_type: the header; believed if it names a kind of manifest, otherwise the body is asked.
        digest: what the body must hash to; without one, its sha256 is computed.

    Raises:
        ManifestInvalid: not a manifest, an ambiguous one, or not the one of that digest.
    """
    if len(body) > MANIFEST_LIMIT_BYTES:
        raise ManifestInvalid(f"the manifest is longer than {MANIFEST_LIMIT_BYTES} bytes")
    fields = check_object(load_object(body), _WIRE_NAMES, what="the manifest")
    media_type = _media_type(fields, content_type)
    _check_kind(fields, media_type)
    contents = [*_objects(fields, "config"), *_objects(fields, "layers"), *_objects(fields, "blobs")]
    listed = _objects(fields, "manifests")
    if len(contents) + len(listed) > DESCRIPTOR_LIMIT:
        raise ManifestInvalid(f"the manifest names more than {DESCRIPTOR_LIMIT} things")
    children = _read_here(listed)
    return Manifest(
        media_type=media_type,
        digest=_check_digest(body, digest),
        body=body,
        blobs=(*_read_here(contents), *(child for child in children if not _is_manifest(child))),
        manifests=tuple(child for child in children if _is_manifest(child)),
    )


def _media_type(fields: Mapping[str, object], content_type: str | None) -> str:
    named = (content_type or "").partition(";")[0].strip().lower()
    if media_types.is_vendor_json(named):
        return named
    own = fields.get("mediaType")
    if isinstance(own, str) and own:
        if not media_types.is_media_type(own):
            raise ManifestInvalid(f"the manifest's mediaType cannot be {quote(own)}")
        return own
    return media_types.OCI_INDEX if isinstance(fields.get("manifests"), list) else media_types.OCI_MANIFEST


def _check_kind(fields: Mapping[str, object], media_type: str) -> None:
    """Refuse what is no manifest, and what is two kinds at once: readers would disagree (CVE-2021-41190)."""
    version = fields.get("schemaVersion")
    is_artifact = version is None and media_type == media_types.ARTIFACT_MANIFEST
    if not is_artifact and (type(version) is not int or version != _SCHEMA_VERSION):
        raise ManifestInvalid(f"the body is not a manifest of schemaVersion {_SCHEMA_VERSION}")
    if fields.get("manifests") and (fields.get("layers") or fields.get("config")):
        raise ManifestInvalid("the body is both a manifest and an index")


def _check_digest(body: bytes, digest: Digest | None) -> Digest:
    if digest is None:
        return Digest.of(body)
    actual = Digest.of(body, digest.algorithm)
    if actual != digest:
        raise ManifestInvalid(f"the body is {actual}, not {digest}")
    return digest


def _objects(fields: Mapping[str, object], name: str) -> list[object]:
    """Return what is under a name, as a list: Go writes an empty one as ``null``."""
    value = fields.get(name)
    if value is None:
        return []
    if name == "config":
        return [value]
    if not isinstance(value, list):
        raise ManifestInvalid(f"the manifest's {name} is not a list")
    return value


def _read_here(values: Iterable[object]) -> list[Descriptor]:
    return [descriptor.read(value) for value in values if not descriptor.lies_elsewhere(value)]


def _is_manifest(child: Descriptor) -> bool:
    return child.media_type.endswith(("+json", "+prettyjws"))
