"""Images built in memory: real manifests, configs and gzipped tar layers that every client accepts.

Everything is a function of its seed, so that two processes build the same digests.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCTET_STREAM = "application/octet-stream"

_BLOCK_BYTES = 1 << 20
_GZIP_WINDOW_BITS = 31
_CREATED = "2024-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes with the digest and media type they are known by."""

    media_type: str
    digest: str
    content: bytes = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Length of the content."""
        return len(self.content)

    @property
    def descriptor(self) -> dict[str, Any]:
        """The JSON that a manifest names this blob with."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A manifest with the blobs it names; also an artifact, whose `subject` it then refers to."""

    media_type: str
    digest: str
    manifest: bytes = field(repr=False)
    config: Blob
    layers: tuple[Blob, ...]
    architecture: str = "amd64"
    subject: str | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """The config, then the layers."""
        return (self.config, *self.layers)

    @property
    def descriptor(self) -> dict[str, Any]:
        """The JSON that an index or a referrers list names this manifest with."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.manifest)}

    def known_by(self, algorithm: str) -> Image:
        """Return the same image under a digest of another algorithm, such as sha512."""
        return replace(self, digest=digest_of(self.manifest, algorithm))


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A manifest naming one image a platform."""

    media_type: str
    digest: str
    manifest: bytes = field(repr=False)
    images: tuple[Image, ...]

    @property
    def descriptor(self) -> dict[str, Any]:
        """The JSON that another manifest names this index with."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.manifest)}

    def image(self, architecture: str) -> Image:
        """Return the image of one platform."""
        return next(image for image in self.images if image.architecture == architecture)


Pullable = Image | Index


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """Return ``algorithm:hex`` of some bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def noise(size_bytes: int, seed: int) -> bytes:
    """Return incompressible bytes: one random block repeated, each time with another counter in front."""
    block = random.Random(seed).randbytes(min(size_bytes, _BLOCK_BYTES))
    content = bytearray(size_bytes)
    for number, start in enumerate(range(0, size_bytes, _BLOCK_BYTES)):
        content[start : start + _BLOCK_BYTES] = block[: size_bytes - start]
        if number:
            counter = number.to_bytes(8, "big")
            end = min(start + len(counter), size_bytes)
            content[start:end] = counter[: end - start]
    return bytes(content)


def blob(size_bytes: int, seed: int = 1, *, media_type: str = OCTET_STREAM, algorithm: str = "sha256") -> Blob:
    """Build a plain blob of exactly this size."""
    content = noise(size_bytes, seed)
    return Blob(media_type=media_type, digest=digest_of(content, algorithm), content=content)


def docker_image(seed: int = 1, *, layers: int = 2, layer_bytes: int = 100_000, architecture: str = "amd64") -> Image:
    """Build a Docker schema 2 image of `layers` layers with about `layer_bytes` of payload each."""
    return _image(DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER, seed, layers, layer_bytes, architecture)


def oci_image(seed: int = 1, *, layers: int = 2, layer_bytes: int = 100_000, architecture: str = "amd64") -> Image:
    """Build an OCI image of `layers` layers with about `layer_bytes` of payload each."""
    return _image(OCI_MANIFEST, OCI_CONFIG, OCI_LAYER, seed, layers, layer_bytes, architecture)


def docker_list(seed: int = 1, *, layers: int = 2, layer_bytes: int = 100_000) -> Index:
    """Build a Docker manifest list of a linux/amd64 and a linux/arm64 image."""
    first = docker_image(seed, layers=layers, layer_bytes=layer_bytes)
    second = docker_image(seed + 1000, layers=layers, layer_bytes=layer_bytes, architecture="arm64")
    return index_of((first, second), DOCKER_LIST)


def oci_index(seed: int = 1, *, layers: int = 2, layer_bytes: int = 100_000) -> Index:
    """Build an OCI index of a linux/amd64 and a linux/arm64 image."""
    first = oci_image(seed, layers=layers, layer_bytes=layer_bytes)
    second = oci_image(seed + 1000, layers=layers, layer_bytes=layer_bytes, architecture="arm64")
    return index_of((first, second), OCI_INDEX)


def index_of(images: Sequence[Image], media_type: str = OCI_INDEX) -> Index:
    """Build an index of any images."""
    entries = [image.descriptor | {"platform": {"architecture": image.architecture, "os": "linux"}} for image in images]
    manifest = _json({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    return Index(media_type=media_type, digest=digest_of(manifest), manifest=manifest, images=tuple(images))


def artifact(
    subject: Pullable,
    seed: int = 1,
    *,
    artifact_type: str = "application/vnd.example.signature.v1",
    size_bytes: int = 512,
) -> Image:
    """Build an OCI artifact that refers to `subject`: one layer, the empty config.

    Spec: https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidelines-for-artifact-usage
    """
    config = _blob(b"{}", OCI_EMPTY)
    layer = blob(size_bytes, seed)
    annotations = {"org.example.seed": str(seed)}
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": config.descriptor,
            "layers": [layer.descriptor],
            "subject": subject.descriptor,
            "annotations": annotations,
        }
    )
    return Image(
        media_type=OCI_MANIFEST,
        digest=digest_of(manifest),
        manifest=manifest,
        config=config,
        layers=(layer,),
        subject=subject.digest,
        artifact_type=artifact_type,
        annotations=annotations,
    )


def _image(
    media_type: str, config_type: str, layer_type: str, seed: int, layers: int, layer_bytes: int, architecture: str
) -> Image:
    tars = [_tar(f"layer-{number}.bin", noise(layer_bytes, seed * 7919 + number)) for number in range(layers)]
    config = _blob(_config([digest_of(tar) for tar in tars], architecture), config_type)
    packed = tuple(_blob(_gzip(tar), layer_type) for tar in tars)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor,
            "layers": [layer.descriptor for layer in packed],
        }
    )
    return Image(
        media_type=media_type,
        digest=digest_of(manifest),
        manifest=manifest,
        config=config,
        layers=packed,
        architecture=architecture,
    )


def _config(diff_ids: Sequence[str], architecture: str) -> bytes:
    return _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": _CREATED,
            "config": {"Cmd": ["/payload"], "Env": ["PATH=/usr/bin:/bin"], "Labels": {"org.example.test": "yes"}},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
            "history": [
                {"created": _CREATED, "created_by": f"COPY layer-{n}.bin /payload/"} for n in range(len(diff_ids))
            ],
        }
    )


def _tar(name: str, payload: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("payload")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        member = tarfile.TarInfo(f"payload/{name}")
        member.size = len(payload)
        archive.addfile(member, io.BytesIO(payload))
    return stream.getvalue()


def _gzip(content: bytes) -> bytes:
    """Pack without compressing: noise does not shrink, and level 0 is the fast one."""
    packer = zlib.compressobj(0, zlib.DEFLATED, _GZIP_WINDOW_BITS)
    return packer.compress(content) + packer.flush()


def _blob(content: bytes, media_type: str) -> Blob:
    return Blob(media_type=media_type, digest=digest_of(content), content=content)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=3).encode()
