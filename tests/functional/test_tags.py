"""What a tag costs and how old it may be: fresh, revalidated, stale, negative."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.functional.conftest import StartMirror
from tests.support.faults import ContentType, Fault, Hang, NoDigestHeader, RefuseHead, Status
from tests.support.images import Pullable, docker_image, docker_list, oci_image, oci_index
from tests.support.pulling import MirrorClient
from tests.support.registry import RateLimit, TestRegistry

NAME = "library/app"
TAG = f"/v2/{NAME}/manifests/latest"
IMAGE, MOVED = docker_image(1), docker_image(2)
TTL_SECONDS = 60
NEGATIVE_SECONDS = 10
ONE_HEAD, HEAD_AND_GET = [("HEAD", "manifest")], [("HEAD", "manifest"), ("GET", "manifest")]
DOWN = Fault(action=Status(status=503))


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "latest", IMAGE)
    return registry


def asked(registry: TestRegistry) -> list[tuple[str, str]]:
    """Return what has reached the upstream."""
    return [(request.method, request.kind) for request in registry.requests]


def ttl_of(cache_status: str) -> int:
    found = re.search(r"; ttl=(-?\d+)", cache_status)
    assert found is not None, cache_status
    return int(found[1])


# Fresh


async def test_the_first_pull_is_a_miss_and_the_next_a_hit_with_its_time_left(
    registry: TestRegistry, client: MirrorClient
) -> None:
    first, second = await client.get(TAG), await client.get(TAG)
    assert first.cache_status == "mirror; fwd=uri-miss; fwd-status=200; stored"
    assert second.cache_status.startswith("mirror; hit; ttl=")
    assert TTL_SECONDS - 2 <= ttl_of(second.cache_status) <= TTL_SECONDS
    assert first.body == second.body == IMAGE.manifest
    assert asked(registry) == HEAD_AND_GET


async def test_the_time_left_runs_down(client: MirrorClient) -> None:
    await client.get(TAG)
    client.mirror.clock.advance(TTL_SECONDS - 10)
    assert 8 <= ttl_of((await client.head(TAG)).cache_status) <= 10


async def test_a_digest_is_fresh_for_ever(registry: TestRegistry, client: MirrorClient) -> None:
    path = f"/v2/{NAME}/manifests/{IMAGE.digest}"
    first = await client.get(path)
    client.mirror.clock.advance(365 * 86400)
    second = await client.get(path)
    assert first.cache_status == "mirror; fwd=uri-miss; fwd-status=200; stored"
    assert second.cache_status == "mirror; hit"
    assert asked(registry) == [("GET", "manifest")]


async def test_an_upstream_may_have_a_lifetime_of_its_own(registry: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(registry.base_url, tag_ttl="1h", overrides={"upstreams.docker.io.tag_ttl": "5s"})
    await client.get(TAG)
    assert 3 <= ttl_of((await client.get(TAG)).cache_status) <= 5


@pytest.mark.parametrize("pullable", [docker_image(3), docker_list(4), oci_image(5), oci_index(6)])
async def test_type_and_bytes_are_exactly_the_upstreams(
    registry: TestRegistry, client: MirrorClient, pullable: Pullable
) -> None:
    registry.add(NAME, "other", pullable)
    cold, hot = [await client.get(f"/v2/{NAME}/manifests/other") for _ in range(2)]
    for answer in (cold, hot):
        assert answer.body == pullable.manifest
        assert answer.headers["Content-Type"] == pullable.media_type
        assert answer.headers["Docker-Content-Digest"] == pullable.digest


async def test_the_type_is_without_the_parameters_that_an_upstream_adds(
    registry: TestRegistry, client: MirrorClient
) -> None:
    registry.fail(Fault(action=ContentType(value="{}; charset=utf-8")))
    assert (await client.head(TAG)).headers["Content-Type"] == IMAGE.media_type
    assert (await client.get(TAG)).headers["Content-Type"] == IMAGE.media_type


async def test_only_what_was_asked_for_is_fetched(registry: TestRegistry, client: MirrorClient) -> None:
    """No other platform, no blob: neither by the index's tag nor by the platform's digest."""
    index = oci_index(7)
    registry.add(NAME, "index", index)
    await client.get(f"/v2/{NAME}/manifests/index")
    await client.get(f"/v2/{NAME}/manifests/{index.image('arm64').digest}")
    references = [request.reference for request in registry.requests if request.method == "GET"]
    assert references == [index.digest, index.image("arm64").digest]
    assert {request.kind for request in registry.requests} == {"manifest"}


# HEAD


async def test_a_head_costs_a_head_and_its_get_nothing_more(registry: TestRegistry, client: MirrorClient) -> None:
    head = await client.head(TAG)
    assert asked(registry) == ONE_HEAD
    get = await client.get(TAG)
    assert asked(registry) == HEAD_AND_GET
    for name in ("Content-Type", "Content-Length", "Docker-Content-Digest", "ETag"):
        assert head.headers[name] == get.headers[name]


async def test_head_and_get_answer_from_one_snapshot(registry: TestRegistry, client: MirrorClient) -> None:
    """Podman and others compare what HEAD said with the body that GET brings."""
    head = await client.head(TAG)
    registry.add(NAME, "latest", MOVED)
    get = await client.get(TAG)
    assert head.headers["Docker-Content-Digest"] == get.headers["Docker-Content-Digest"] == IMAGE.digest
    assert get.body == IMAGE.manifest


@pytest.mark.parametrize("status", [401, 403, 405])
async def test_an_upstream_that_refuses_head_is_asked_by_get(
    registry: TestRegistry, client: MirrorClient, status: int
) -> None:
    registry.fail(Fault(action=RefuseHead(status=status)))
    head, get = await client.head(TAG), await client.get(TAG)
    assert head.headers["Docker-Content-Digest"] == IMAGE.digest
    assert (get.status, get.body) == (200, IMAGE.manifest)
    assert registry.count(method="GET", kind="manifest") == 1


async def test_an_upstream_whose_head_tells_no_digest_is_asked_by_get(
    registry: TestRegistry, client: MirrorClient
) -> None:
    registry.fail(Fault(action=NoDigestHeader()))
    head, get = await client.head(TAG), await client.get(TAG)
    assert head.headers["Docker-Content-Digest"] == IMAGE.digest
    assert int(head.headers["Content-Length"]) == len(IMAGE.manifest)
    assert (get.status, get.body) == (200, IMAGE.manifest)
    assert registry.count(method="GET", kind="manifest") == 1


async def test_such_an_upstreams_unchanged_tag_is_revalidated_too(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=NoDigestHeader()))
    await client.get(TAG)
    client.mirror.clock.advance(TTL_SECONDS)
    assert (await client.get(TAG)).cache_status == "mirror; fwd=stale; fwd-status=200"


async def test_a_client_that_has_the_manifest_gets_304(client: MirrorClient) -> None:
    await client.get(TAG)
    answer = await client.ask(TAG, headers={"If-None-Match": f'"{IMAGE.digest}"'})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.cache_status.startswith("mirror; hit; ttl=")


# Revalidated


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_unchanged_tag_costs_one_head_and_no_counted_get(
    registry: TestRegistry, client: MirrorClient, method: str
) -> None:
    await client.get(TAG)
    registry.reset_record()
    registry.limit = RateLimit(limit=100, remaining=100)
    client.mirror.clock.advance(TTL_SECONDS)
    answer = await client.ask(TAG, method=method)
    assert answer.cache_status == "mirror; fwd=stale; fwd-status=200"
    assert asked(registry) == ONE_HEAD
    assert registry.limit.remaining == 100
    assert (await client.get(TAG)).cache_status.startswith("mirror; hit; ttl=")
    assert asked(registry) == ONE_HEAD


async def test_a_moved_tag_is_seen_after_its_lifetime_and_not_before(
    registry: TestRegistry, client: MirrorClient
) -> None:
    await client.get(TAG)
    registry.add(NAME, "latest", MOVED)
    client.mirror.clock.advance(TTL_SECONDS - 5)
    assert (await client.get(TAG)).body == IMAGE.manifest
    client.mirror.clock.advance(5)
    moved = await client.get(TAG)
    assert moved.body == MOVED.manifest
    assert moved.cache_status == "mirror; fwd=uri-miss; fwd-status=200; stored"
    assert (await client.get(f"/v2/{NAME}/manifests/{IMAGE.digest}")).body == IMAGE.manifest


async def test_a_tag_that_moved_back_costs_no_get(registry: TestRegistry, client: MirrorClient) -> None:
    await client.get(TAG)
    for image in (MOVED, IMAGE):
        registry.add(NAME, "latest", image)
        client.mirror.clock.advance(TTL_SECONDS)
        assert (await client.get(TAG)).body == image.manifest
    assert registry.count(method="GET") == 2


async def test_a_deleted_tag_is_404_after_its_lifetime(registry: TestRegistry, client: MirrorClient) -> None:
    await client.get(TAG)
    registry.delete_tag(NAME, "latest")
    client.mirror.clock.advance(TTL_SECONDS)
    gone = await client.get(TAG)
    assert (gone.status, gone.code) == (404, "MANIFEST_UNKNOWN")
    registry.fail(DOWN)
    client.mirror.clock.advance(NEGATIVE_SECONDS)
    assert (await client.get(TAG)).status == 502  # nothing old is served in its place


async def test_what_one_worker_has_asked_another_knows(registry: TestRegistry, start_mirror: StartMirror) -> None:
    first, second = await start_mirror(registry.base_url), await start_mirror(registry.base_url)
    await first.get(TAG)
    assert (await second.get(TAG)).cache_status.startswith("mirror; hit; ttl=")
    assert asked(registry) == HEAD_AND_GET


async def test_a_lifetime_of_nothing_asks_every_time(registry: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(registry.base_url, tag_ttl="0s")
    await client.get(TAG)
    assert (await client.get(TAG)).cache_status == "mirror; fwd=stale; fwd-status=200"
    assert registry.count(method="HEAD") == 2


async def test_a_clock_that_was_set_back_makes_nothing_fresh_for_longer(
    registry: TestRegistry, client: MirrorClient
) -> None:
    await client.get(TAG)
    client.mirror.clock.advance(-86400)
    assert (await client.get(TAG)).cache_status == "mirror; fwd=stale; fwd-status=200"


# Stale


async def test_a_stale_answer_says_for_how_long_it_has_been(registry: TestRegistry, client: MirrorClient) -> None:
    await client.get(TAG)
    registry.fail(DOWN)
    client.mirror.clock.advance(TTL_SECONDS + 100)
    for answer in (await client.head(TAG), await client.get(TAG)):
        assert answer.status == 200
        assert re.fullmatch(r"mirror; hit; ttl=-10[0-2]; detail=stale-if-error", answer.cache_status)
        assert re.fullmatch(r'299 - "docker\.io [^"]+ 10[0-2] s[^"]*"', answer.headers["Warning"])


async def test_a_fresh_answer_carries_no_warning(client: MirrorClient) -> None:
    assert "Warning" not in (await client.get(TAG)).headers
    assert "Warning" not in (await client.get(TAG)).headers


async def test_stale_has_an_end(registry: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(registry.base_url, stale_if_error="1h")
    await client.get(TAG)
    registry.fail(DOWN)
    client.mirror.clock.advance(TTL_SECONDS + 3590)
    assert (await client.get(TAG)).status == 200
    client.mirror.clock.advance(20)
    answer = await client.get(TAG)
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")


async def test_while_one_question_is_open_nobody_waits_a_second_time(
    registry: TestRegistry, client: MirrorClient
) -> None:
    await client.get(TAG)
    registry.reset_record()
    registry.fail(Fault(action=Hang()))
    client.mirror.clock.advance(TTL_SECONDS)
    first = await client.get(TAG)
    following = [await client.get(TAG) for _ in range(5)]
    assert first.seconds < 2
    assert all("stale-if-error" in answer.cache_status and answer.seconds < 0.2 for answer in following)
    assert asked(registry) == ONE_HEAD


# Negative


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_404_is_remembered_for_a_moment(registry: TestRegistry, client: MirrorClient, method: str) -> None:
    path = f"/v2/{NAME}/manifests/none"
    first = await client.ask(path, method=method)
    client.mirror.clock.advance(4)
    second = await client.ask(path, method=method)
    assert (first.status, second.status) == (404, 404)
    assert first.cache_status == "mirror; fwd=uri-miss; fwd-status=404"
    assert re.fullmatch(r"mirror; hit; ttl=[56]; detail=negative", second.cache_status)
    assert registry.count() == 1
    client.mirror.clock.advance(NEGATIVE_SECONDS - 4)
    assert (await client.ask(path, method=method)).cache_status == "mirror; fwd=uri-miss; fwd-status=404"
    assert registry.count() == 2


async def test_a_tag_that_appears_is_seen_when_the_404_is_forgotten(
    registry: TestRegistry, client: MirrorClient
) -> None:
    path = f"/v2/{NAME}/manifests/new"
    assert (await client.get(path)).status == 404
    registry.add(NAME, "new", MOVED)
    client.mirror.clock.advance(NEGATIVE_SECONDS)
    assert (await client.get(path)).body == MOVED.manifest


async def test_nothing_is_remembered_where_the_operator_says_so(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    client = await start_mirror(registry.base_url, negative_ttl="0s")
    for _ in range(2):
        await client.get(f"/v2/{NAME}/manifests/none")
    assert registry.count() == 2


# At once


async def test_many_at_once_cost_one_head_and_one_get(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Hang()))
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(client.get_many(TAG, 50))
        await registry.until_held()
        registry.heal()
    answers = asking.result()
    assert {answer.body for answer in answers} == {IMAGE.manifest}
    assert asked(registry) == HEAD_AND_GET
    assert {answer.cache_status for answer in answers} == {
        "mirror; fwd=uri-miss; fwd-status=200; stored",
        "mirror; fwd=uri-miss; collapsed",
    }


async def test_many_at_once_revalidate_with_one_head(registry: TestRegistry, client: MirrorClient) -> None:
    await client.get(TAG)
    registry.reset_record()
    client.mirror.clock.advance(TTL_SECONDS)
    answers = await client.get_many(TAG, 50)
    assert {answer.body for answer in answers} == {IMAGE.manifest}
    assert asked(registry) == ONE_HEAD


async def test_a_client_that_gives_up_does_not_cancel_the_shared_question(
    registry: TestRegistry, client: MirrorClient
) -> None:
    registry.fail(Fault(action=Hang(), times=1))
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(client.get(TAG))
        await registry.until_held()
        staying = group.create_task(client.get(TAG))
        leaving.cancel()
        registry.heal()
    assert staying.result().body == IMAGE.manifest
    assert asked(registry) == HEAD_AND_GET
