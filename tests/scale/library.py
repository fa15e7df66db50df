"""Makes a cache as the mirror itself would have made it, from very many small images, without pulling them."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest, parse
from mirror.oci.reference import Repository
from mirror.storage.facts import Facts
from mirror.storage.files import Layout
from mirror.storage.ledger import Ledger
from mirror.storage.links import LinkFiles
from mirror.storage.seals import seal
from tests.support.images import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST

_LAYERS = 8
OBJECTS_OF_AN_IMAGE = _LAYERS + 2
_IMAGES_OF_A_REPOSITORY = 100
_LAYER_BYTES = 400
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One object, by the path that asks for it."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What was made."""

    manifests: Sequence[Stored]
    blobs: Sequence[Stored]
    total_bytes: int


def make_library(folder: Path, objects: int) -> Library:
    """Fill a cache folder with about this many objects; the images last used first are those made first."""
    layout = Layout(folder)
    layout.create()
    now = time.time()
    images = [_Image(number) for number in range(max(1, objects // OBJECTS_OF_AN_IMAGE))]
    for image in images:
        image.write(layout)
    _write_links(layout, images, now)
    with closing(Facts(layout)) as facts:
        for repository in dict.fromkeys(image.repository for image in images):
            facts.list_again(repository)
    with closing(Ledger(layout.ledger)) as ledger:
        _account(ledger, images, now - len(images))
    manifests = [Stored(path=f"/v2/{it.repository.name}/manifests/{it.tag}", size_bytes=it.length) for it in images]
    blobs = [
        Stored(path=f"/v2/{it.repository.name}/blobs/{blob.digest}", size_bytes=blob.size_bytes)
        for it in images
        for blob in it.manifest.blobs
    ]
    total_bytes = sum(one.size_bytes for one in (*manifests, *blobs))
    return Library(manifests=manifests, blobs=blobs, total_bytes=total_bytes)


class _Image:
    def __init__(self, number: int) -> None:
        noise = random.Random(number)
        self.repository = Repository("docker.io", f"team/app{number // _IMAGES_OF_A_REPOSITORY}")
        self.tag = f"v{number % _IMAGES_OF_A_REPOSITORY}"
        self.contents = [
            json.dumps({"architecture": "amd64", "os": "linux", "number": number}).encode(),
            *(noise.randbytes(_LAYER_BYTES) for _ in range(_LAYERS)),
        ]
        config, *layers = (_descriptor(content, OCI_LAYER) for content in self.contents)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config | {"mediaType": OCI_CONFIG},
            "layers": layers,
        }
        self.manifest: Manifest = parse(json.dumps(document).encode(), content_type=OCI_MANIFEST)
        self.length = len(self.manifest.body)

    def write(self, layout: Layout) -> None:
        for content in (*self.contents, self.manifest.body):
            digest = Digest.of(content)
            path = layout.blob(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(descriptor, content)
            seal(descriptor, digest)
            os.close(descriptor)


def _descriptor(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def _write_links(layout: Layout, images: Sequence[_Image], now: float) -> None:
    links = LinkFiles(layout.links)
    for image in images:
        manifest = image.manifest
        link = {"mediaType": "application/octet-stream", "manifest": False, "private": False}
        rows: dict[str, dict[str, object] | None] = {
            f"@{one.digest}": {**link, "size": one.size_bytes} for one in manifest.blobs
        }
        known = {"mediaType": manifest.media_type, "size": image.length}
        rows[f"@{manifest.digest}"] = {**known, "manifest": True, "private": False}
        rows[f":{image.tag}"] = {**known, "digest": str(manifest.digest), "confirmed": now, "noted": now}
        links.append(image.repository, rows)


def _account(ledger: Ledger, images: Sequence[_Image], began: float) -> None:
    blobs = (
        (blob.digest, blob.size_bytes, began + number)
        for number, image in enumerate(images)
        for blob in image.manifest.blobs
    )
    for batch in _batches(blobs):
        ledger.add_blobs(batch)
    for number, image in enumerate(images):
        ledger.add_manifest(image.repository, image.manifest, began + number)


def _batches(blobs: Iterator[tuple[Digest, int, float]]) -> Iterator[list[tuple[Digest, int, float]]]:
    while batch := list(islice(blobs, _BATCH)):
        yield batch
