"""Several endpoints: one that fails is left alone, probed, and used again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
from structlog.testing import capture_logs

from tests.functional.conftest import StartMirror
from tests.support.faults import Fault, FlipByte, Hang, Status
from tests.support.images import Image, docker_image
from tests.support.pulling import MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
IMAGES = [docker_image(700 + number, layers=1, layer_bytes=2000) for number in range(12)]
UP = "mirror_upstream_up"
HUB = {"upstream": "docker.io"}
PROBED_SECONDS = 10.0


@pytest.fixture
async def registries() -> AsyncIterator[tuple[TestRegistry, TestRegistry]]:
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(TestRegistry()) for _ in range(2)]
        for number, image in enumerate(IMAGES):
            for registry in (first, second):
                registry.add(NAME, str(number), image)
        yield first, second


@pytest.fixture
async def client(registries: tuple[TestRegistry, TestRegistry], start_mirror: StartMirror) -> MirrorClient:
    urls = [registry.base_url for registry in registries]
    return await start_mirror(urls[0], overrides={"upstreams.docker.io.endpoints": urls})


async def pull(client: MirrorClient, number: int) -> None:
    answers = await client.pull(NAME, str(number), IMAGES[number])
    assert {answer.status for answer in answers.values()} == {200}
    assert answers["tag"].body == IMAGES[number].manifest


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PROBED_SECONDS):
        while not condition():
            await asyncio.to_thread(asyncio.SelectorEventLoop().close)


def pulled_from(registry: TestRegistry) -> int:
    return len([request for request in registry.requests if request.kind != "ping"])


def is_up(client: MirrorClient) -> float | None:
    return client.mirror.metrics.get_sample_value(UP, HUB)


async def test_the_first_that_works_is_the_only_one_that_is_asked(
    registries: tuple[TestRegistry, TestRegistry], client: MirrorClient
) -> None:
    await pull(client, 0)
    assert (pulled_from(registries[1]), is_up(client)) == (0, 1)


async def test_one_that_is_gone_is_left_alone_probed_and_used_again(
    registries: tuple[TestRegistry, TestRegistry], client: MirrorClient
) -> None:
    first, second = registries
    await first.stop()
    with capture_logs() as logs:
        for number in range(3):
            await pull(client, number)
        await first.start()
        await first.until(lambda: first.count(kind="ping") > 0, timeout_seconds=PROBED_SECONDS)
        await until(lambda: "upstream.endpoint_up" in {entry["event"] for entry in logs})
    assert pulled_from(first) == 0  # nothing but the probe
    failed = [entry for entry in logs if entry["event"] == "upstream.endpoint_failed"]
    assert len(failed) == 1  # asked once, then left alone
    second.reset_record()
    await pull(client, 5)
    assert (pulled_from(first) > 0, pulled_from(second)) == (True, 0)
    assert is_up(client) == 1


async def test_one_that_hangs_slows_one_pull_and_no_more(
    registries: tuple[TestRegistry, TestRegistry], client: MirrorClient
) -> None:
    first, _ = registries
    first.fail(Fault(action=Hang()))
    await pull(client, 0)
    for number in range(1, 6):
        await pull(client, number)
    assert pulled_from(first) == 1


async def test_one_that_fails_again_and_again_is_left_alone(
    registries: tuple[TestRegistry, TestRegistry], client: MirrorClient
) -> None:
    first, _ = registries
    first.fail(Fault(action=Status(status=502)))
    for number in range(6):
        await pull(client, number)
    assert pulled_from(first) == 3


async def test_one_that_limits_its_rate_is_left_alone_for_as_long_as_it_says(
    registries: tuple[TestRegistry, TestRegistry], client: MirrorClient
) -> None:
    first, second = registries
    first.fail(Fault(action=Status(status=429, headers={"Retry-After": "30"}), times=1))
    await pull(client, 0)
    await pull(client, 1)
    assert pulled_from(first) == 1
    second.reset_record()
    client.mirror.clock.advance(30)
    await pull(client, 2)
    assert pulled_from(second) == 0


async def test_one_that_sends_wrong_content_is_not_asked_for_it_again(
    registries: tuple[TestRegistry, TestRegistry], client: MirrorClient
) -> None:
    first, second = registries
    first.fail(Fault(action=FlipByte(), kind="blob"))
    path = f"/v2/{NAME}/blobs/{IMAGES[0].layers[0].digest}"
    await client.get(f"/v2/{NAME}/manifests/0")
    with pytest.raises(aiohttp.ClientPayloadError):  # cut short: the body is wrong
        await client.get(path)
    answer = await client.get(path)
    assert (answer.status, answer.body) == (200, IMAGES[0].layers[0].content)
    assert second.count(kind="blob") == 1


async def test_when_all_are_gone_it_is_said_and_a_probe_finds_that_they_are_back(
    registries: tuple[TestRegistry, TestRegistry], client: MirrorClient
) -> None:
    await pull(client, 0)
    for registry in registries:
        await registry.stop()
    answer = await client.get(f"/v2/{NAME}/manifests/1")
    assert (answer.status, is_up(client)) == (504, 0)
    for registry in registries:
        await registry.start()
    await until(lambda: is_up(client) == 1)  # without anybody asking


async def test_what_the_first_does_not_have_the_second_may(
    registries: tuple[TestRegistry, TestRegistry], client: MirrorClient
) -> None:
    first, second = registries
    image: Image = docker_image(790, layers=1, layer_bytes=2000)
    second.add(NAME, "only", image)
    answers = await client.pull(NAME, "only", image)
    assert {answer.status for answer in answers.values()} == {200}
    assert first.count(status=404) > 0
