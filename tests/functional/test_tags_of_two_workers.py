"""Two mirrors on one cache folder, as two workers are: what one was told about a tag, the other knows."""

from __future__ import annotations

import pytest

from tests.functional.conftest import StartMirror
from tests.support.faults import Fault, Status
from tests.support.images import docker_image
from tests.support.pulling import MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
TAG = f"/v2/{NAME}/manifests/latest"
BEFORE, AFTER = docker_image(1), docker_image(2)
PAST_TTL_SECONDS = 61
DOWN = Fault(action=Status(status=503))


@pytest.fixture
async def workers(registry: TestRegistry, start_mirror: StartMirror) -> tuple[MirrorClient, MirrorClient]:
    """Both have answered for the tag; its time has run out since."""
    registry.add(NAME, "latest", BEFORE)
    first, second = await start_mirror(registry.base_url), await start_mirror(registry.base_url)
    for worker in (first, second):
        assert (await worker.get(TAG)).body == BEFORE.manifest
        worker.mirror.clock.advance(PAST_TTL_SECONDS)
    return first, second


async def test_a_tag_that_one_worker_saw_move_is_not_served_as_it_was_by_the_other(
    registry: TestRegistry, workers: tuple[MirrorClient, MirrorClient]
) -> None:
    first, second = workers
    registry.add(NAME, "latest", AFTER)
    assert (await first.get(TAG)).body == AFTER.manifest
    second.mirror.clock.advance(PAST_TTL_SECONDS)  # also past what the first was told
    registry.fail(DOWN)
    answer = await second.get(TAG)
    assert answer.body == AFTER.manifest
    assert "detail=stale-if-error" in answer.cache_status


async def test_a_tag_that_one_worker_saw_gone_is_not_served_as_stale_by_the_other(
    registry: TestRegistry, workers: tuple[MirrorClient, MirrorClient]
) -> None:
    first, second = workers
    registry.delete_tag(NAME, "latest")
    assert (await first.get(TAG)).status == 404
    registry.fail(DOWN)
    assert (await second.get(TAG)).status >= 500
