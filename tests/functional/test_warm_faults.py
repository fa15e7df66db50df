"""What is stored is served whatever becomes of the upstream, within two seconds a request."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.functional.conftest import StartMirror
from tests.support.faults import HTML_PAGE, Action, Fault, Hang, RefuseHead, Reset, Slow, Status
from tests.support.images import OCI_INDEX, docker_image, oci_index
from tests.support.mirrors import settings
from tests.support.pulling import Answer, MirrorClient, mirror_client
from tests.support.registry import TestRegistry
from tests.support.tokens import BearerGate, TokenService

NAME = "library/app"
IMAGE = docker_image(1)
INDEX = oci_index(2)
MOST_SECONDS = 2.0
PAST_ITS_TIME_SECONDS = 61
RECOVERED = re.compile(r"mirror; fwd=stale; fwd-status=200|mirror; hit; ttl=\d+")  # asked for, or behind the scenes
STALE = re.compile(r"mirror; hit; ttl=-\d+; detail=stale-if-error")
RETRY_AFTER_SECONDS = 60
HELD_SECONDS = 5  # what a 429 without any word of it is kept to
FAULTS: Mapping[str, Sequence[Action]] = {
    "429": [Status(status=429, code="TOOMANYREQUESTS", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})],
    "500": [Status(status=500)],
    "503 with a page": [Status(status=503, body=HTML_PAGE, headers={"Content-Type": "text/html"})],
    "a page": [Status(status=200, body=HTML_PAGE, headers={"Content-Type": "text/html"})],
    "reset": [RefuseHead(status=405), Reset(after_bytes=0)],
    "hang": [Hang()],
}


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "latest", IMAGE)
    registry.add(NAME, "index", INDEX)
    return registry


@pytest.fixture
async def warm(client: MirrorClient) -> MirrorClient:
    """Everything is stored, and its tags are past their time."""
    await pull_all(client)
    client.mirror.clock.advance(PAST_ITS_TIME_SECONDS)
    return client


async def pull_all(client: MirrorClient) -> list[tuple[Answer, Answer]]:
    """Pull an image, and one platform of an index; return each one's HEAD and GET of the tag."""
    tags = []
    for tag, manifest, image in (("latest", IMAGE.manifest, IMAGE), ("index", INDEX.manifest, INDEX.image("arm64"))):
        answers = await client.pull(NAME, tag, image)
        assert [answer.status for answer in answers.values()] == [200] * len(answers)
        assert max(answer.seconds for answer in answers.values()) < MOST_SECONDS
        assert answers["tag"].body == manifest
        assert answers["manifest"].body == image.manifest
        assert all(answers[blob.digest].body == blob.content for blob in image.blobs)
        tags.append((answers["head"], answers["tag"]))
    return tags


def assert_stale(tags: list[tuple[Answer, Answer]]) -> None:
    for answer in (answer for both in tags for answer in both):
        assert STALE.fullmatch(answer.cache_status)
        assert answer.headers["Warning"].startswith('299 - "')


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_not_noticed_and_its_end_at_once(
    registry: TestRegistry, warm: MirrorClient, name: str
) -> None:
    registry.fail(*(Fault(action=action) for action in FAULTS[name]))
    assert_stale(await pull_all(warm))
    registry.heal()
    await registry.until(lambda: all(request.finished for request in registry.requests))
    if name == "429":
        warm.mirror.clock.advance(RETRY_AFTER_SECONDS)
    for head, _ in await pull_all(warm):
        assert RECOVERED.fullmatch(head.cache_status)
    assert registry.count(kind="blob", method="GET") == len(IMAGE.blobs) + len(INDEX.image("arm64").blobs)


async def test_an_upstream_that_answers_late_is_served_behind_the_scenes(
    registry: TestRegistry, warm: MirrorClient
) -> None:
    """The question that a client did not wait for is answered for the next one."""
    registry.fail(Fault(action=Slow(before_headers_seconds=1.3), times=1))
    path = f"/v2/{NAME}/manifests/latest"
    assert STALE.fullmatch((await warm.get(path)).cache_status)
    async with asyncio.timeout(10):
        while STALE.fullmatch((await warm.get(path)).cache_status):
            pass
    assert RECOVERED.fullmatch((await warm.get(path)).cache_status)


async def test_a_registry_that_is_gone(registry: TestRegistry, warm: MirrorClient) -> None:
    await registry.stop()
    assert_stale(await pull_all(warm))
    await registry.start()
    for head, _ in await pull_all(warm):
        assert RECOVERED.fullmatch(head.cache_status)


async def test_a_restart_while_the_registry_is_gone(registry: TestRegistry, tmp_path: Path) -> None:
    overrides = settings({"docker.io": registry.base_url})
    async with mirror_client(tmp_path, overrides) as before:
        await pull_all(before)
    await registry.stop()
    async with mirror_client(tmp_path, overrides) as after:
        after.mirror.clock.advance(PAST_ITS_TIME_SECONDS)
        assert_stale(await pull_all(after))
    await registry.start()
    async with mirror_client(tmp_path, overrides) as later:
        later.mirror.clock.advance(PAST_ITS_TIME_SECONDS)
        for head, _ in await pull_all(later):
            assert RECOVERED.fullmatch(head.cache_status)


async def test_a_rate_limit_that_spares_head_keeps_the_old_image_of_a_moved_tag(
    registry: TestRegistry, warm: MirrorClient
) -> None:
    """Docker Hub's limit counts GETs only: HEAD tells that the tag has moved, and the new manifest cannot be had."""
    registry.add(NAME, "latest", docker_image(9))
    registry.fail(Fault(action=Status(status=429, code="TOOMANYREQUESTS"), method="GET", kind="manifest"))
    answer = await warm.get(f"/v2/{NAME}/manifests/latest")
    assert (answer.status, answer.body) == (200, IMAGE.manifest)
    assert STALE.fullmatch(answer.cache_status)


async def test_lists_of_what_is_known_are_served_too(registry: TestRegistry, warm: MirrorClient) -> None:
    referrers = f"/v2/{NAME}/referrers/{IMAGE.digest}"
    assert (await warm.get(referrers)).status == 200
    warm.mirror.clock.advance(PAST_ITS_TIME_SECONDS)
    registry.fail(Fault(action=Status(status=503)))
    tags = await warm.get(f"/v2/{NAME}/tags/list")
    assert tags.json == {"name": NAME, "tags": ["index", "latest"]}
    assert "stale-if-error" in tags.cache_status
    stale = await warm.get(referrers)
    assert (stale.status, stale.headers["Content-Type"]) == (200, OCI_INDEX)
    assert "stale-if-error" in stale.cache_status


# The token service


@pytest.fixture
async def tokens(registry: TestRegistry) -> AsyncIterator[TokenService]:
    async with TokenService() as service:
        registry.gate = BearerGate(service)
        yield service


@pytest.mark.parametrize(
    "break_it",
    [
        lambda service: service.fail(Fault(action=Status(status=503, body=HTML_PAGE))),
        lambda service: service.fail(Fault(action=Status(status=429))),
        lambda service: service.fail(Fault(action=Hang())),
        lambda service: service.fail(Fault(action=Status(status=200, body=HTML_PAGE))),
    ],
    ids=["503", "429", "hang", "a page"],
)
async def test_a_token_service_that_fails(
    registry: TestRegistry, tokens: TokenService, start_mirror: StartMirror, break_it: Callable[[TokenService], None]
) -> None:
    client = await start_mirror(registry.base_url)
    await pull_all(client)
    tokens.revoke_all()
    break_it(tokens)
    client.mirror.clock.advance(PAST_ITS_TIME_SECONDS)
    assert_stale(await pull_all(client))
    tokens.heal()
    await tokens.record.until(lambda: all(request.finished for request in tokens.requests))
    client.mirror.clock.advance(HELD_SECONDS)
    for head, _ in await pull_all(client):
        assert RECOVERED.fullmatch(head.cache_status)


async def test_a_token_service_that_is_gone(
    registry: TestRegistry, tokens: TokenService, start_mirror: StartMirror
) -> None:
    client = await start_mirror(registry.base_url)
    await pull_all(client)
    tokens.revoke_all()
    await tokens.server.stop()
    client.mirror.clock.advance(PAST_ITS_TIME_SECONDS)
    assert_stale(await pull_all(client))
