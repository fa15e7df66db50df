"""A bounded cache, while it serves."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from structlog.testing import capture_logs

from tests.functional.conftest import StartMirror
from tests.support.faults import Fault, Silence
from tests.support.images import Image, blob, docker_image, oci_image, oci_index
from tests.support.pulling import MirrorClient
from tests.support.reading import reading
from tests.support.registry import TestRegistry

NAME = "library/app"
HIT = "mirror; hit"


def stored(client: MirrorClient) -> set[str]:
    return {f"{path.parts[-3]}:{path.name}" for path in (client.mirror.folder / "blobs").rglob("*") if path.is_file()}


def stored_bytes(client: MirrorClient) -> int:
    sizes = []
    for path in (client.mirror.folder / "blobs").rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except FileNotFoundError:
            continue
    return sum(sizes)


async def until_evicted(client: MirrorClient, *, at_least: int) -> None:
    async with asyncio.timeout(20):
        while (client.mirror.metrics.get_sample_value("mirror_evictions_total", {"reason": "size"}) or 0) < at_least:
            await client.get("/healthz")


async def until_at_rest(client: MirrorClient) -> None:
    """Wait until what was downloaded has its name: its clients had it before."""
    async with asyncio.timeout(20):
        while list((client.mirror.folder / "partial").iterdir()):
            await client.get("/healthz")


async def until_noted(client: MirrorClient, *digests: str) -> None:
    """Use manifests now, and wait until the ledger knows."""
    now = client.mirror.clock.now()
    for digest in digests:
        await client.get(f"/v2/{NAME}/manifests/{digest}")
    async with asyncio.timeout(20):
        with closing(sqlite3.connect(client.mirror.folder / "index" / "ledger.db")) as ledger:
            query = "SELECT used FROM objects WHERE digest = ?"
            while any(ledger.execute(query, (digest,)).fetchone()[0] < now for digest in digests):
                await client.get("/healthz")


async def pull(client: MirrorClient, tag: str, image: Image) -> None:
    answers = await client.pull(NAME, tag, image)
    assert answers["tag"].body == image.manifest
    assert [answers[part.digest].body for part in image.blobs] == [part.content for part in image.blobs]
    client.mirror.clock.advance(1)


async def test_what_was_not_used_for_longest_goes_and_what_is_left_is_whole(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    images = [oci_image(number, layers=2, layer_bytes=100_000) for number in range(4)]
    for number, image in enumerate(images):
        registry.add(NAME, str(number), image)
    client = await start_mirror(registry.base_url, max_size="690kB", min_free="0", tag_ttl="1h")
    for number in (0, 1, 2, 0):
        await pull(client, str(number), images[number])
        await until_noted(client, images[number].digest)
        client.mirror.clock.advance(1)
    await pull(client, "3", images[3])
    await until_evicted(client, at_least=4)
    await until_at_rest(client)
    gone = {images[1].digest, *(part.digest for part in images[1].blobs)}
    assert (
        stored(client)
        == {one for image in images for one in (image.digest, *(part.digest for part in image.blobs))} - gone
    )
    registry.fail(Fault(action=Silence(), kind="blob"))
    for number in (0, 2, 3):  # whole, without asking
        answers = await client.pull(NAME, str(number), images[number])
        assert [answers[part.digest].cache_status for part in images[number].blobs] == [HIT] * 3
    registry.heal()
    await pull(client, "1", images[1])  # and what went comes back
    metrics = (await client.get("/metrics")).body.decode()
    assert "mirror_cache_limit_bytes 690000.0" in metrics


async def test_the_size_never_passes_the_bound_while_images_come_and_go(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    limit_bytes = 1_000_000
    base = oci_image(1, layers=1, layer_bytes=100_000)
    images = [oci_image(number, layers=2, layer_bytes=60_000) for number in range(10, 40)]
    registry.add(NAME, "base", base)
    for number, image in enumerate(images):
        registry.add(NAME, str(number), image)
    client = await start_mirror(registry.base_url, max_size=f"{limit_bytes}B", min_free="0")
    largest = 0
    for number, image in enumerate(images):
        await pull(client, "base", base)
        await pull(client, str(number), image)
        largest = max(largest, stored_bytes(client))
    assert largest <= limit_bytes
    await until_at_rest(client)
    assert base.digest in stored(client)


async def test_the_size_never_passes_the_bound_while_many_images_come_at_once(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    limit_bytes = 2_000_000
    images = [oci_image(number, layers=2, layer_bytes=60_000) for number in range(40, 90)]
    for number, image in enumerate(images):
        registry.add(NAME, str(number), image)
    client = await start_mirror(registry.base_url, max_size=f"{limit_bytes}B", min_free="0")
    sizes = []

    async def watch() -> None:
        while True:
            sizes.append(await asyncio.to_thread(stored_bytes, client))

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        for start in range(0, len(images), 5):
            await asyncio.gather(*(pull(client, str(n), images[n]) for n in range(start, start + 5)))
        watching.cancel()
    assert max(sizes) <= limit_bytes


async def test_a_blob_that_is_being_sent_is_sent_whole(registry: TestRegistry, start_mirror: StartMirror) -> None:
    large = blob(6_000_000, 5)
    registry.add_blob(NAME, large)
    client = await start_mirror(registry.base_url, max_size="7MB", min_free="0")
    path = f"/v2/{NAME}/blobs/{large.digest}"
    assert (await client.get(path)).body == large.content
    client.mirror.clock.advance(10)
    async with reading(client.mirror.base_url, path) as answer:
        await answer.take(1)
        client.mirror.clock.advance(10)
        other = docker_image(2, layers=1, layer_bytes=3_000_000)
        registry.add(NAME, "other", other)
        await client.pull(NAME, "other", other)
        await until_evicted(client, at_least=1)
        assert large.digest not in stored(client)
        await answer.take_all()
        assert bytes(answer.body) == large.content


async def test_room_is_made_while_a_download_comes(registry: TestRegistry, start_mirror: StartMirror) -> None:
    old, large = oci_image(3, layers=2, layer_bytes=200_000), blob(900_000, 6)
    registry.add(NAME, "old", old)
    registry.add_blob(NAME, large)
    client = await start_mirror(registry.base_url, max_size="1MB", min_free="0")
    await pull(client, "old", old)
    await until_at_rest(client)
    registry.fail(Fault(action=Silence(fraction=0.1), kind="blob"))
    async with reading(client.mirror.base_url, f"/v2/{NAME}/blobs/{large.digest}") as answer:
        await answer.take(1)
        await until_evicted(client, at_least=4)
        assert stored(client) == set()
        registry.release()
        await answer.take_all()
        assert bytes(answer.body) == large.content


async def test_an_index_and_the_one_platform_that_was_pulled_go_together(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    index, other = oci_index(4, layers=1, layer_bytes=100_000), oci_image(9, layers=1, layer_bytes=300_000)
    registry.add(NAME, "index", index)
    registry.add(NAME, "other", other)
    client = await start_mirror(registry.base_url, max_size="350kB", min_free="0")
    assert (await client.get(f"/v2/{NAME}/manifests/index")).body == index.manifest
    await client.pull(NAME, index.image("amd64").digest, index.image("amd64"))
    client.mirror.clock.advance(1)
    await until_noted(client, index.digest, index.image("amd64").digest)
    client.mirror.clock.advance(1)
    await pull(client, "other", other)
    await until_evicted(client, at_least=4)
    await until_at_rest(client)
    assert stored(client) == {other.digest, *(part.digest for part in other.blobs)}
    assert (await client.get(f"/v2/{NAME}/tags/list")).status == 200


async def test_a_full_file_system_is_said_and_serves_on(registry: TestRegistry, start_mirror: StartMirror) -> None:
    """More is to be kept free than there is: all goes that may, again and again, and every pull is served."""
    image = oci_image(5, layers=1, layer_bytes=1000)
    registry.add(NAME, "1", image)
    system = os.statvfs(Path("/tmp"))  # noqa: S108 - where pytest keeps its folders
    with capture_logs() as logs:
        client = await start_mirror(registry.base_url, min_free=f"{system.f_blocks * system.f_frsize // 10**12 + 2}TB")
        for _ in range(2):
            await pull(client, "1", image)
            async with asyncio.timeout(20):
                while stored(client) or not any(event["event"] == "cache.full" for event in logs):
                    await client.get("/healthz")
    assert [event["reason"] for event in logs if event["event"] == "cache.full"] == ["space"]
