"""Image layouts in tar files, right ones and wrong ones."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.images import Image, Index, Pullable

MARKER = b'{"imageLayoutVersion": "1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"

Members = list[tuple[tarfile.TarInfo, bytes]]


def plain(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """Return a plain file."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """Return a link, a device or what else a tar file may hold."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def blob_name(digest: str) -> str:
    """Return where a blob is in a layout."""
    return f"blobs/{digest.replace(':', '/')}"


def index_json(entries: Iterable[tuple[Pullable, str | None]]) -> bytes:
    """Return ``index.json`` of images and their names."""
    manifests: list[Mapping[str, Any]] = []
    for pullable, name in entries:
        manifests.append(pullable.descriptor | ({} if name is None else {"annotations": {REF_NAME: name}}))
    return json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()


def layout(*entries: tuple[Pullable, str | None], without: Iterable[str] = ()) -> Members:
    """Return the files of a layout of these images, in the order in which skopeo writes them."""
    blobs: dict[str, bytes] = {}
    for pullable, _ in entries:
        blobs[pullable.digest] = pullable.manifest
        for image in pullable.images if isinstance(pullable, Index) else (pullable,):
            blobs |= _contents(image)
    folder = tarfile.TarInfo("blobs")
    folder.type = tarfile.DIRTYPE
    left_out = set(without)
    members = [plain(blob_name(digest), blobs[digest]) for digest in sorted(blobs) if digest not in left_out]
    return [(folder, b""), *members, plain("index.json", index_json(entries)), plain("oci-layout", MARKER)]


def _contents(image: Image) -> dict[str, bytes]:
    return {image.digest: image.manifest, **{blob.digest: blob.content for blob in image.blobs}}


def pack(members: Members, mode: str = "w") -> bytes:
    """Return a tar file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]  # the mode is one of its
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def unpack(path: Path) -> dict[str, bytes]:
    """Return the files of a tar file, in their order."""
    with tarfile.open(path) as archive:
        opened = {member.name: archive.extractfile(member) for member in archive}
        return {name: content.read() for name, content in opened.items() if content is not None}
