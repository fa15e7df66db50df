"""The mirror before every kind of registry: each image pulls, cold and with the upstream gone, whatever its habits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.functional.conftest import StartMirror
from tests.support.access import read_basic
from tests.support.habits import (
    HABITS,
    Acr,
    ArtifactRegistry,
    DebianTokens,
    Ghcr,
    GitLab,
    Habit,
    HtpasswdRegistry,
    Kind,
    Mcr,
    PlainRegistry,
    PrivateEcr,
    Sample,
)
from tests.support.pulling import MirrorClient

TAG_TTL_SECONDS = 60
WITHOUT_TOKENS = {PrivateEcr, Mcr, PlainRegistry, HtpasswdRegistry}
REVOCABLE = [kind for kind in HABITS if kind not in {*WITHOUT_TOKENS, DebianTokens}]  # a JWT is good until it ends


def write_credential(
    habit: Habit, folder: Path, *, user: str | None = None, password: str | None = None
) -> dict[str, object]:
    """Write the password, by default the right one, to the file that the flags name; none where nobody has any."""
    if habit.credential is None:
        return {}
    user, right = habit.credential if user is None else (user, habit.access.users[user])
    file = folder / f"password of {habit.name}"
    file.write_text(f"{password or right}\n", encoding="utf-8")
    return {f"upstreams.{habit.name}.username": user, f"upstreams.{habit.name}.password_file": str(file)}


async def pull(client: MirrorClient, habit: Habit, sample: Sample) -> set[int]:
    """Return the statuses; what is answered by 200 is right."""
    answers = await client.pull(f"{habit.name}/{sample.repository}", sample.tag, sample.image)
    contents = {blob.digest: blob.content for blob in sample.image.blobs} | {"tag": sample.image.manifest}
    assert all(answers[what].body == content for what, content in contents.items() if answers[what].status == 200)
    assert all("WWW-Authenticate" not in answer.headers for answer in answers.values())
    return {answer.status for answer in answers.values()}


async def pull_all(client: MirrorClient, habit: Habit) -> set[int]:
    return {status for sample in habit.samples for status in await pull(client, habit, sample)}


@pytest.fixture
async def habit(kind: Kind) -> AsyncIterator[Habit]:
    async with kind() as upstream:
        yield upstream


@pytest.fixture
async def client(habit: Habit, start_mirror: StartMirror, tmp_path: Path) -> MirrorClient:
    """A mirror with the credential, where there is one."""
    return await start_mirror(overrides={**habit.settings(), **write_credential(habit, tmp_path)})


@pytest.mark.parametrize("kind", HABITS)
async def test_every_image_pulls_cold_and_again_while_the_upstream_is_gone(habit: Habit, client: MirrorClient) -> None:
    assert await pull_all(client, habit) == {200}
    await habit.stop()
    client.mirror.clock.advance(TAG_TTL_SECONDS + 1)
    assert await pull_all(client, habit) == {200}


@pytest.mark.parametrize(
    ("kind", "user"),
    [(ArtifactRegistry, "_json_key_base64"), (ArtifactRegistry, "oauth2accesstoken"), (Acr, "pull-token")],
)
async def test_a_registry_that_has_several_kinds_of_credential_takes_each(
    habit: Habit, user: str, start_mirror: StartMirror, tmp_path: Path
) -> None:
    client = await start_mirror(overrides={**habit.settings(), **write_credential(habit, tmp_path, user=user)})
    assert await pull_all(client, habit) == {200}


@pytest.mark.parametrize("kind", HABITS)
async def test_without_a_credential_what_is_public_pulls_and_nothing_else(
    habit: Habit, start_mirror: StartMirror
) -> None:
    client = await start_mirror(overrides=habit.settings())
    if habit.private is not None:
        assert await pull(client, habit, habit.private) <= {403, 404}
    if habit.public is not None:
        assert await pull(client, habit, habit.public) == {200}


@pytest.mark.parametrize("kind", [kind for kind in HABITS if kind.private is not None and kind is not DebianTokens])
async def test_a_wrong_credential_leaves_what_is_public_and_is_not_tried_again_and_again(
    kind: Kind, habit: Habit, start_mirror: StartMirror, tmp_path: Path
) -> None:
    flags = write_credential(habit, tmp_path, password="a wrong password")
    client = await start_mirror(overrides={**habit.settings(), **flags})
    for _ in range(2):
        if habit.private is not None:
            assert await pull(client, habit, habit.private) <= {403, 404}
        if habit.public is not None:
            assert await pull(client, habit, habit.public) == {200}
    sent = [*habit.registry.requests, *(habit.tokens.requests if habit.tokens is not None else [])]
    # for one repository and for none at all, and to Azure in two ways: then it is known to be wrong
    shown = [request for request in sent if read_basic(request.headers) is not None or request.method == "POST"]
    assert 1 <= len(shown) <= (4 if kind is Acr else 2)


@pytest.mark.parametrize("kind", REVOCABLE)
async def test_tokens_that_were_all_revoked_are_renewed_once(habit: Habit, client: MirrorClient) -> None:
    assert habit.tokens is not None
    sample = habit.samples[-1]
    path = f"/v2/{habit.name}/{sample.repository}/tags/list"
    await client.get(path)
    habit.tokens.revoke_all()
    habit.tokens.record.clear()
    client.mirror.clock.advance(10)  # one that has just come is not to blame for Amazon's 400
    assert (await client.get(path)).json["tags"] == [sample.tag]
    assert len(habit.tokens.requests) <= 1


@pytest.mark.parametrize("kind", [Ghcr, HtpasswdRegistry, PrivateEcr, Acr])
async def test_a_credential_that_has_ended_is_replaced_by_what_its_file_says_now(
    habit: Habit, client: MirrorClient, tmp_path: Path
) -> None:
    sample = habit.private
    assert sample is not None
    assert await pull(client, habit, sample) == {200}
    habit.end_credential()
    write_credential(habit, tmp_path)
    path = f"/v2/{habit.name}/{sample.repository}/tags/list"
    assert (await client.get(path)).json["tags"] == [sample.tag]


async def test_gitlab_does_not_ban_a_mirror_with_a_wrong_password(start_mirror: StartMirror, tmp_path: Path) -> None:
    async with GitLab() as gitlab:
        flags = write_credential(gitlab, tmp_path, password="a wrong password")
        client = await start_mirror(overrides={**gitlab.settings(), **flags})
        for number in range(20):
            await client.get(f"/v2/{gitlab.name}/group/app{number}/manifests/1")
        assert 1 <= gitlab.tokens.bad_attempts < gitlab.tokens.ban_after
        assert await pull(client, gitlab, gitlab.public) == {200}


async def test_one_mirror_before_all_of_them_shows_no_secret(start_mirror: StartMirror, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(kind()) for kind in HABITS]
        flags: dict[str, object] = {}
        for upstream in upstreams:
            flags |= {**upstream.settings(), **write_credential(upstream, tmp_path)}
        with capture_logs() as logs:  # of every level
            client = await start_mirror(overrides=flags)
            assert {upstream.name: await pull_all(client, upstream) for upstream in upstreams} == {
                upstream.name: {200} for upstream in upstreams
            }
            for upstream in upstreams:
                await upstream.stop()
            client.mirror.clock.advance(TAG_TTL_SECONDS + 1)
            for upstream in upstreams:
                assert await pull_all(client, upstream) == {200}
        shown = repr(logs)
        for path in ("/metrics", "/readyz", "/v2/_catalog"):
            shown += (await client.get(path)).body.decode()
        assert [secret for upstream in upstreams for secret in upstream.secrets if secret in shown] == []
