"""A large blob from an upstream whose connections are slow: fetched by several requests, into one file, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.functional.conftest import StartMirror
from tests.support.faults import Cut, Fault, FlipByte, IgnoreRange, Slow, Status
from tests.support.images import blob
from tests.support.mirrors import settings
from tests.support.pulling import MirrorClient, mirror_client
from tests.support.reading import reading
from tests.support.registry import TestRegistry

NAME = "library/app"
LAYER = blob(6_000_000, 17)
PATH = f"/v2/{NAME}/blobs/{LAYER.digest}"
SLOW = Fault(action=Slow(bytes_per_second=4_000_000), kind="blob")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large, small enough for a test."""
    monkeypatch.setattr("mirror.engine.ahead.LARGE_BYTES", 2_000_000)
    monkeypatch.setattr("mirror.engine.ahead._PART_BYTES", 500_000)
    monkeypatch.setattr("mirror.engine.ahead._LOOKED_AT_SECONDS", 0.02)
    monkeypatch.setattr("mirror.engine.ahead._PAUSE_SECONDS", 0.01)


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add_blob(NAME, LAYER)
    registry.fail(SLOW)
    return registry


def files(client: MirrorClient) -> list[Path]:
    return [path for path in (client.mirror.folder / "partial").iterdir() if path.is_file()]


def ranged(registry: TestRegistry) -> int:
    return sum(request.range is not None for request in registry.requests)


async def test_a_large_blob_comes_by_several_requests_and_each_byte_once(
    registry: TestRegistry, client: MirrorClient
) -> None:
    answers = await client.get_many(PATH, 3)
    assert all(answer.body == LAYER.content for answer in answers)
    assert ranged(registry) > 3
    assert registry.bytes_sent("blob") < 1.3 * LAYER.size_bytes
    await client.settled()
    assert files(client) == []
    assert (await client.get(PATH)).cache_status == "mirror; hit"


@pytest.mark.parametrize("overrides", [{"parallel": 1}, {"max_connections": 5}], ids=["parallel", "max_connections"])
async def test_as_many_connections_as_are_allowed(
    registry: TestRegistry, start_mirror: StartMirror, overrides: dict[str, int]
) -> None:
    made = {f"upstreams.docker.io.{name}": value for name, value in overrides.items()}
    client = await start_mirror(registry.base_url, overrides=made)
    assert (await client.get(PATH)).body == LAYER.content
    assert registry.count(kind="blob") == 1


async def test_a_small_blob_comes_by_one(registry: TestRegistry, client: MirrorClient) -> None:
    small_blob = blob(1_500_000, 18)
    registry.add_blob(NAME, small_blob)
    assert (await client.get(f"/v2/{NAME}/blobs/{small_blob.digest}")).body == small_blob.content
    assert registry.count(kind="blob") == 1


BREAKS: Sequence[tuple[str, Fault]] = [
    ("without ranges", Fault(action=IgnoreRange())),
    ("cut", Fault(action=Cut(after_bytes=100_000), skip=1, times=4)),
    ("refused", Fault(action=Status(status=503), skip=1, times=9)),
    ("not there", Fault(action=Status(status=404), skip=1, times=20)),
]


@pytest.mark.parametrize("fault", [fault for _, fault in BREAKS], ids=[name for name, _ in BREAKS])
async def test_parts_that_fail_fail_nobody(registry: TestRegistry, client: MirrorClient, fault: Fault) -> None:
    registry.fail(fault)
    assert (await client.get(PATH)).body == LAYER.content
    await client.settled()
    assert files(client) == []


async def test_a_wrong_byte_in_a_part_completes_nothing(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=FlipByte(position=3_000_000)))
    async with reading(client.mirror.base_url, PATH) as answer:
        assert not await answer.take_all()
    await client.settled()
    assert files(client) == []
    registry.heal()
    assert (await client.get(PATH)).body == LAYER.content


async def test_a_restart_goes_on_with_the_parts_that_are_there(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path
) -> None:
    async with mirror_client(tmp_path / "cache", settings({"docker.io": registry.base_url})) as first:
        async with reading(first.mirror.base_url, PATH) as answer:
            await answer.take(2_000_000)
        assert any(path.suffix == ".part" for path in files(first))
    assert any(path.suffix == ".part" for path in files(first))
    second = await start_mirror(registry.base_url)
    await second.settled()
    assert (await second.get(PATH)).body == LAYER.content
    await second.settled()
    assert files(second) == []
    assert registry.bytes_sent("blob") < 1.5 * LAYER.size_bytes
