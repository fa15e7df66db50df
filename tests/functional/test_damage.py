"""Files that were damaged or removed behind the mirror's back are found before they are sent, and fetched again."""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path

import aiohttp
import pytest

from tests.functional.conftest import StartMirror
from tests.support.images import Blob, Image, blob, oci_image
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
    """Wait until every download has its name in the store, and nobody can join it any more."""
    running = functools.partial(client.mirror.metrics.get_sample_value, "mirror_fills_in_progress")
    async with asyncio.timeout(10):
        while list((client.mirror.folder / "partial").iterdir()) or running():
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


# Bytes that somebody has changed


def flip(path: Path, at: int) -> None:
    """Change one byte as an editor would; the length stays."""
    with path.open("r+b") as file:
        file.seek(at)
        (before,) = file.read(1)
        file.seek(at)
        file.write(bytes([before ^ 1]))


@pytest.mark.parametrize("at", [0, LAYER.size_bytes // 2, LAYER.size_bytes - 1])
async def test_a_flipped_byte_is_found_before_it_is_sent_and_the_blob_is_fetched_again(
    registry: TestRegistry, client: MirrorClient, at: int
) -> None:
    await pulled(client)
    assert (await pulled(client))[LAYER.digest] == HIT  # it is in use
    flip(file_of(client, LAYER.digest), at)
    assert (await client.head(PATH)).headers["Content-Length"] == str(LAYER.size_bytes)
    assert (await pulled(client))[LAYER.digest] == "mirror; fwd=uri-miss; fwd-status=200; stored"
    assert (await pulled(client))[LAYER.digest] == HIT
    assert client.mirror.metrics.get_sample_value("mirror_blobs_damaged_total") == 1


async def test_a_large_blob_with_a_flipped_byte_is_cut_short_and_heals(
    registry: TestRegistry, client: MirrorClient
) -> None:
    large = blob(20 * 1024 * 1024, 83)
    path = f"/v2/{NAME}/blobs/{large.digest}"
    registry.add_blob(NAME, large)
    assert (await client.get(path)).body == large.content
    await settled(client)
    flip(file_of(client, large.digest), 7)
    ends = await asyncio.gather(*(client.get(path) for _ in range(3)), return_exceptions=True)
    for end in ends:  # whoever comes when it has been found gets it fetched
        assert isinstance(end, aiohttp.ClientPayloadError) or (
            not isinstance(end, BaseException) and end.body == large.content
        )
    assert any(isinstance(end, aiohttp.ClientPayloadError) for end in ends)
    assert (await client.get(path)).body == large.content
    await settled(client)
    assert (await client.get(path)).cache_status == HIT
    assert file_of(client, large.digest).read_bytes() == large.content
    assert registry.count(kind="blob", method="GET") == 2


@pytest.mark.parametrize("part", [LAYER, blob(20 * 1024 * 1024, 84)], ids=["small", "large"])
async def test_a_file_whose_times_were_changed_is_hashed_once_and_served(
    registry: TestRegistry, client: MirrorClient, part: Blob
) -> None:
    registry.add_blob(NAME, part)
    path = f"/v2/{NAME}/blobs/{part.digest}"
    await client.get(path)
    await settled(client)
    file = file_of(client, part.digest)
    stored_at = file.stat().st_mtime_ns
    os.utime(file, ns=(stored_at, stored_at + 1))  # as after a restored backup
    answers = await client.get_many(path, 3)
    assert [(answer.body == part.content, answer.cache_status) for answer in answers] == [(True, HIT)] * 3
    assert (await client.ask(path, headers={"Range": "bytes=1-2"})).body == part.content[1:3]
    assert file.stat().st_mtime_ns == stored_at  # sealed again
    assert registry.count(kind="blob", method="GET") == 1


async def test_a_manifest_with_a_flipped_byte_is_fetched_again(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    client = await start_mirror(registry.base_url)
    await pulled(client)
    flip(file_of(client, IMAGE.digest), 10)
    client = await start_mirror(registry.base_url)  # a worker that has nothing in memory
    assert (await pulled(client))["manifest"] == HIT  # fetched for the tag, just before
    assert file_of(client, IMAGE.digest).read_bytes() == IMAGE.manifest
