"""Rate limits are kept to, whatever way an upstream tells them, and the last pulls are for what is not cached."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from tests.functional.conftest import StartMirror
from tests.support.faults import Fault, RefuseHead, Status
from tests.support.habits import DockerHub, Ghcr, PublicEcr
from tests.support.images import docker_image, oci_image
from tests.support.pulling import MirrorClient
from tests.support.registry import RateLimit, TestRegistry

TAG_TTL_SECONDS = 60
LIMIT, RESERVE = 100, 10
WINDOW_SECONDS = 21600
CACHED = {f"library/app{number}": docker_image(500 + number, layers=1, layer_bytes=2000) for number in range(10)}
NEW = oci_image(600, layer_bytes=2000)


def path_of(repository: str) -> str:
    return f"/v2/{repository}/manifests/1"


def counted(registry: TestRegistry) -> int:
    return registry.count(kind="manifest", method="GET")


@pytest.fixture
async def hub() -> AsyncIterator[DockerHub]:
    async with DockerHub() as upstream:
        for repository, image in CACHED.items():
            upstream.registry.add(repository, "1", image)
        upstream.registry.add("library/new", "1", NEW)
        yield upstream


@pytest.fixture
async def warm(hub: DockerHub, start_mirror: StartMirror) -> MirrorClient:
    """Has ten images, and has just learned that only the reserve is left."""
    client = await start_mirror(overrides=hub.settings())
    for repository, image in CACHED.items():
        answers = await client.pull(repository, "1", image)
        assert {answer.status for answer in answers.values()} == {200}
    hub.registry.limit = RateLimit(limit=LIMIT, remaining=RESERVE)
    client.mirror.clock.advance(TAG_TTL_SECONDS)
    await client.get(path_of("library/app0"))
    hub.registry.reset_record()
    return client


@pytest.mark.parametrize("head", [True, False], ids=["HEAD tells", "HEAD is refused"])
async def test_at_its_reserve_cached_tags_make_no_counted_request_and_a_new_image_still_pulls(
    hub: DockerHub, warm: MirrorClient, *, head: bool
) -> None:
    if not head:
        hub.registry.fail(Fault(action=RefuseHead(), kind="manifest"))
    repositories = list(CACHED)
    for number in range(500):
        repository = repositories[number % len(repositories)]
        answer = await warm.get(path_of(repository))
        assert (answer.status, answer.body) == (200, CACHED[repository].manifest)
        warm.mirror.clock.advance(6)
    assert counted(hub.registry) == 0
    if head:  # each tag is pulled every minute: without a reserve that would be 500
        assert 0 < hub.registry.count(kind="manifest", method="HEAD") < 400
    new = await warm.pull("library/new", "1", NEW)
    assert {answer.status for answer in new.values()} == {200}
    assert counted(hub.registry) == 1
    assert hub.registry.limit is not None
    assert hub.registry.limit.remaining == RESERVE - 1


async def test_above_its_reserve_tags_are_asked_about_as_ever(hub: DockerHub, warm: MirrorClient) -> None:
    hub.registry.limit = RateLimit(limit=LIMIT, remaining=RESERVE + 1)
    for _ in range(3):  # the first may find that it need not be asked yet
        warm.mirror.clock.advance(2 * TAG_TTL_SECONDS)
        await warm.get(path_of("library/app0"))
    hub.registry.reset_record()
    warm.mirror.clock.advance(TAG_TTL_SECONDS)
    assert (await warm.get(path_of("library/app0"))).cache_status == "mirror; fwd=stale; fwd-status=200"
    assert hub.registry.count(kind="manifest", method="HEAD") == 1


async def test_a_reserve_of_nothing_changes_nothing(hub: DockerHub, start_mirror: StartMirror) -> None:
    client = await start_mirror(overrides={**hub.settings(), "upstreams.docker.io.ratelimit_reserve": "0%"})
    hub.registry.limit = RateLimit(limit=LIMIT, remaining=RESERVE)
    await client.get(path_of("library/app0"))
    hub.registry.reset_record()
    client.mirror.clock.advance(TAG_TTL_SECONDS)
    await client.get(path_of("library/app0"))
    assert hub.registry.count(kind="manifest", method="HEAD") == 1


# When it is reached


async def test_a_pull_limit_that_is_reached_spares_what_is_cached_and_what_it_does_not_count(
    hub: DockerHub, warm: MirrorClient
) -> None:
    hub.registry.limit = RateLimit(limit=LIMIT, remaining=0)
    refused = await warm.get(path_of("library/new"))
    assert (refused.status, refused.code) == (503, "TOOMANYREQUESTS")
    assert refused.headers["Retry-After"] == str(WINDOW_SECONDS // LIMIT)  # one comes back in so long
    before = counted(hub.registry)
    assert (await warm.get(path_of("library/new"))).status == 503
    assert counted(hub.registry) == before  # kept to
    for repository, image in CACHED.items():
        answers = await warm.pull(repository, "1", image)
        assert {answer.status for answer in answers.values()} == {200}
    hub.registry.limit = RateLimit(limit=LIMIT, remaining=1)
    warm.mirror.clock.advance(WINDOW_SECONDS // LIMIT)
    assert (await warm.get(path_of("library/new"))).status == 200


async def test_a_limit_against_abuse_is_kept_to_for_everything(hub: DockerHub, warm: MirrorClient) -> None:
    hub.turn_away()
    warm.mirror.clock.advance(10 * TAG_TTL_SECONDS)
    with capture_logs() as logs:
        answer = await warm.get(path_of("library/app1"))
    assert (answer.status, "stale-if-error" in answer.cache_status) == (200, True)
    assert "Warning" in answer.headers
    (said,) = [entry for entry in logs if entry["event"] == "upstream.rate_limited"]
    assert (said["log_level"], said["retry_after_seconds"]) == ("warning", 5)
    before = len(hub.registry.requests)
    for repository in CACHED:
        assert (await warm.get(path_of(repository))).status == 200
    assert (await warm.get(path_of("library/new"))).status == 503
    assert len(hub.registry.requests) == before
    hub.heal()
    warm.mirror.clock.advance(5)
    assert (await warm.get(path_of("library/new"))).status == 200


async def test_ghcr_tells_in_its_text_how_long_to_wait(start_mirror: StartMirror) -> None:
    async with Ghcr() as ghcr:
        client = await start_mirror(overrides=ghcr.settings())
        ghcr.turn_away()
        path = f"/v2/ghcr.io/{ghcr.public.repository}/manifests/{ghcr.public.image.digest}"  # a HEAD has no text
        answer = await client.get(path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        ghcr.heal()
        assert (await client.get(path)).status == 503
        client.mirror.clock.advance(1)
        assert (await client.get(path)).status == 200


async def test_amazon_s_short_limit_is_not_taken_for_a_long_one(start_mirror: StartMirror) -> None:
    async with PublicEcr() as ecr:
        client = await start_mirror(overrides=ecr.settings())
        ecr.turn_away()
        path = f"/v2/public.ecr.aws/{ecr.public.repository}/manifests/{ecr.public.tag}"
        assert float((await client.get(path)).headers["Retry-After"]) <= 5
        ecr.heal()
        client.mirror.clock.advance(5)
        assert (await client.get(path)).status == 200


async def test_waits_that_nobody_has_told_grow_and_end(hub: DockerHub, warm: MirrorClient) -> None:
    hub.registry.fail(Fault(action=Status(status=429, body=b"slow down")))
    waits = []
    for _ in range(8):
        answer = await warm.get(path_of("library/new"))
        waits.append(int(answer.headers["Retry-After"]))
        warm.mirror.clock.advance(waits[-1])
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]


async def test_what_is_left_is_exported(warm: MirrorClient) -> None:
    metric = warm.mirror.metrics.get_sample_value
    labels = {"upstream": "docker.io"}
    assert metric("mirror_upstream_ratelimit_limit", labels) == LIMIT
    assert metric("mirror_upstream_ratelimit_remaining", labels) == RESERVE
