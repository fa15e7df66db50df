"""Private content is served through no other repository, and not for long after its credential has gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.engine.access import LINK_SECONDS
from tests.functional.conftest import StartMirror
from tests.support.faults import Fault, Status
from tests.support.habits import DockerHub
from tests.support.images import docker_image, oci_image
from tests.support.pulling import MirrorClient, mirror_client

PRIVATE, IMAGE = "ada/private", DockerHub.private.image
PUBLIC, PUBLIC_IMAGE = "library/other", docker_image(810, layer_bytes=2000)
OTHERS = ("library/alpine", "library/other", "ada/other-private", "ada/none", "bob/private")
PATHS = {
    "manifest": f"manifests/{IMAGE.digest}",
    "manifest as blob": f"blobs/{IMAGE.digest}",
    **{f"blob {number}": f"blobs/{blob.digest}" for number, blob in enumerate(IMAGE.blobs)},
}


@pytest.fixture
async def hub() -> AsyncIterator[DockerHub]:
    async with DockerHub() as upstream:
        upstream.registry.add(PUBLIC, "1", PUBLIC_IMAGE)
        upstream.registry.add("ada/other-private", "1", oci_image(811, layer_bytes=2000))
        upstream.registry.add("bob/private", "1", oci_image(812, layer_bytes=2000))
        upstream.access.private |= {"ada/other-private": {"ada"}, "bob/private": {"bob"}}
        yield upstream


@pytest.fixture
def flags(hub: DockerHub, tmp_path: Path) -> dict[str, object]:
    assert hub.credential is not None
    user, password = hub.credential
    (tmp_path / "secret").write_text(password, encoding="utf-8")
    keys = {"username": user, "password_file": str(tmp_path / "secret")}
    return {**hub.settings(), **{f"upstreams.docker.io.{key}": value for key, value in keys.items()}}


@pytest.fixture
async def client(flags: dict[str, object], start_mirror: StartMirror) -> MirrorClient:
    """A mirror that has the private image, and a public one."""
    client = await start_mirror(overrides=flags)
    for repository, tag, image in ((PRIVATE, "1", IMAGE), (PUBLIC, "1", PUBLIC_IMAGE)):
        answers = await client.pull(repository, tag, image)
        assert {answer.status for answer in answers.values()} == {200}
    return client


async def statuses(client: MirrorClient, repository: str) -> dict[str, int]:
    return {what: (await client.get(f"/v2/{repository}/{path}")).status for what, path in PATHS.items()}


@pytest.mark.parametrize("repository", OTHERS)
async def test_no_other_repository_gives_it(client: MirrorClient, repository: str) -> None:
    assert set((await statuses(client, repository)).values()) <= {403, 404}
    for path in PATHS.values():
        assert (await client.head(f"/v2/{repository}/{path}")).status in {403, 404}
    assert set((await statuses(client, PRIVATE)).values()) == {200}


async def test_while_the_credential_is_good_it_is_confirmed_once_in_a_while(
    hub: DockerHub, client: MirrorClient
) -> None:
    hub.registry.reset_record()
    assert set((await statuses(client, PRIVATE)).values()) == {200}
    assert hub.registry.requests == []
    client.mirror.clock.advance(LINK_SECONDS + 1)
    assert set((await statuses(client, PRIVATE)).values()) == {200}
    about = [request for request in hub.registry.requests if request.repository == PRIVATE and request.status == 200]
    assert len(about) == 1  # for all of them
    assert hub.registry.count(kind="manifest", method="GET") == 0  # and by nothing that is counted
    assert hub.registry.count(kind="cdn") == 0


async def test_it_is_refused_when_the_credential_is_withdrawn_and_the_link_s_time_has_passed(
    hub: DockerHub, client: MirrorClient
) -> None:
    hub.access.private[PRIVATE] = {"somebody else"}
    hub.tokens.revoke_all()
    assert set((await statuses(client, PRIVATE)).values()) == {200}  # until then it is served
    client.mirror.clock.advance(LINK_SECONDS + 1)
    assert set((await statuses(client, PRIVATE)).values()) <= {403, 404}
    assert (await client.get(f"/v2/{PRIVATE}/manifests/1")).status in {403, 404}
    client.mirror.clock.advance(LINK_SECONDS + 1)
    assert set((await statuses(client, PRIVATE)).values()) <= {403, 404}
    public = await client.pull(PUBLIC, "1", PUBLIC_IMAGE)
    assert {answer.status for answer in public.values()} == {200}


async def test_a_restart_without_the_credential_does_not_make_it_anybody_s(
    hub: DockerHub, client: MirrorClient
) -> None:
    async with mirror_client(client.mirror.folder, hub.settings()) as after:
        assert set((await statuses(after, PRIVATE)).values()) == {200}
        after.mirror.clock.advance(LINK_SECONDS + 1)
        assert set((await statuses(after, PRIVATE)).values()) <= {403, 404}


async def test_an_upstream_that_cannot_say_fails_no_pull(hub: DockerHub, client: MirrorClient) -> None:
    client.mirror.clock.advance(LINK_SECONDS + 1)
    await hub.stop()
    with capture_logs() as logs:
        assert set((await statuses(client, PRIVATE)).values()) == {200}
    assert [entry["repository"] for entry in logs if entry["event"] == "access.unconfirmed"] == [PRIVATE]
    await hub.start()
    hub.registry.fail(Fault(action=Status(status=429, headers={"Retry-After": "5"})))
    client.mirror.clock.advance(LINK_SECONDS + 1)
    assert set((await statuses(client, PRIVATE)).values()) == {200}


async def test_what_has_become_public_is_not_asked_about_any_more(hub: DockerHub, client: MirrorClient) -> None:
    del hub.access.private[PRIVATE]
    async with mirror_client(client.mirror.folder, hub.settings()) as after:
        after.mirror.clock.advance(LINK_SECONDS + 1)
        assert set((await statuses(after, PRIVATE)).values()) == {200}
        after.mirror.clock.advance(LINK_SECONDS + 1)
        hub.registry.reset_record()
        assert set((await statuses(after, PRIVATE)).values()) == {200}
        assert hub.registry.requests == []


async def test_public_content_that_nobody_needed_a_credential_for_is_never_asked_about(
    hub: DockerHub, start_mirror: StartMirror
) -> None:
    client = await start_mirror(overrides=hub.settings())
    await client.pull(PUBLIC, "1", PUBLIC_IMAGE)
    hub.registry.reset_record()
    client.mirror.clock.advance(10 * LINK_SECONDS)
    assert (await client.get(f"/v2/{PUBLIC}/manifests/{PUBLIC_IMAGE.digest}")).cache_status == "mirror; hit"
    for blob in PUBLIC_IMAGE.blobs:
        assert (await client.get(f"/v2/{PUBLIC}/blobs/{blob.digest}")).cache_status == "mirror; hit"
    assert hub.registry.requests == []
