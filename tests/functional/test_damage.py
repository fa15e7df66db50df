"""Files that were damaged or removed behind the mirror's back are found before they are sent, and fetched again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.functional.conftest import StartMirror
from tests.support.images import Image, blob, oci_image
from tests.support.pulling import MirrorClient
from tests.support.registry import TestRegistry

NAME, OTHER = "library/app", "library/other"
HIT = "mirror; hit"
IMAGE = oci_image(81, layers=1, layer_bytes=200_000)
LAYER = IMAGE.layers[0]
PATH = f"/v2/{NAME}/blobs/{LAYER.digest}"


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "1", IMAGE)
    registry.add(OTHER, "1", IMAGE)
    return registry


def file_of(client: MirrorClient, digest: str) -> Path:
    algorithm, _, encoded = digest.partition(":")
    return client.mirror.folder / "blobs" / algorithm / encoded[:2] / encoded


async def settled(client: MirrorClient) -> None:
    """Wait until every download has its name in the store."""
    async with asyncio.timeout(10):
        while list((client.mirror.folder / "partial").iterdir()):
            await client.get("/healthz")


async def pulled(client: MirrorClient, name: str = NAME, image: Image = IMAGE) -> dict[str, str]:
    answers = await client.pull(name, "1", image)
    assert answers["manifest"].body == image.manifest
    assert [answers[part.digest].body for part in image.blobs] == [part.content for part in image.blobs]
    await settled(client)
    return {what: answer.cache_status for what, answer in answers.items()}


@pytest.mark.parametrize("size_bytes", [0, 1, LAYER.size_bytes - 1, LAYER.size_bytes + 1])
@pytest.mark.parametrize("name", [NAME, OTHER], ids=["known to hold it", "asked about"])
async def test_a_file_of_the_wrong_length_is_fetched_again(
    registry: TestRegistry, client: MirrorClient, size_bytes: int, name: str
) -> None:
    await pulled(client)
    os.truncate(file_of(client, LAYER.digest), size_bytes)
    head = await client.head(f"/v2/{name}/blobs/{LAYER.digest}")
    assert head.headers["Content-Length"] == str(LAYER.size_bytes)
    answer = await client.get(f"/v2/{name}/blobs/{LAYER.digest}")
    assert answer.body == LAYER.content
    assert answer.cache_status != HIT
    assert (await client.get(PATH)).cache_status == HIT
    await settled(client)
    assert file_of(client, LAYER.digest).read_bytes() == LAYER.content


async def test_a_file_that_is_gone_is_fetched_again(registry: TestRegistry, client: MirrorClient) -> None:
    await pulled(client)
    file_of(client, LAYER.digest).unlink()
    assert (await client.head(PATH)).headers["Content-Length"] == str(LAYER.size_bytes)
    assert (await pulled(client))[LAYER.digest] != HIT
    assert (await pulled(client))[LAYER.digest] == HIT


async def test_a_manifest_that_is_wrong_about_a_size_costs_no_second_fetch(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    part = blob(5000, 82)
    wrong = IMAGE.manifest.replace(LAYER.digest.encode(), part.digest.encode())
    registry.add_blob(NAME, part)
    digest = registry.add_manifest(NAME, "wrong", wrong, IMAGE.media_type)
    client = await start_mirror(registry.base_url)
    assert (await client.get(f"/v2/{NAME}/manifests/{digest}")).body == wrong
    for _ in range(3):
        assert (await client.get(f"/v2/{NAME}/blobs/{part.digest}")).body == part.content
    assert registry.count(kind="blob", method="GET") == 1
