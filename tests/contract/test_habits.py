"""Each test upstream behaves as the kind of registry that it is named after; asked by a plain HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from tests.support.habits import (
    HABITS,
    DebianTokens,
    DockerHub,
    Ghcr,
    GitLab,
    Habit,
    Harbor,
    HtpasswdRegistry,
    Kind,
    Mcr,
    PlainRegistry,
    Quay,
)
from tests.support.habits.client import PlainClient, plain_client

MISSING = "octo/none"


@pytest.fixture
async def client() -> AsyncIterator[PlainClient]:
    async with plain_client() as opened:
        yield opened


# What all have in common


def name_of(kind: Kind) -> str:
    return kind.__name__


@pytest.fixture(params=HABITS, ids=name_of)
def kind(request: pytest.FixtureRequest) -> Kind:
    wanted: Kind = request.param
    return wanted


@pytest.fixture
async def habit(kind: Kind) -> AsyncIterator[Habit]:
    async with kind() as upstream:
        yield upstream


async def test_a_client_that_knows_its_way_pulls_what_it_may(habit: Habit, client: PlainClient) -> None:
    if habit.public is not None:
        assert set(await client.pull(habit, habit.public, None)) == {200}
    if habit.private is not None:
        assert set(await client.pull(habit, habit.private, None)) <= {401, 403}
        assert set(await client.pull(habit, habit.private, habit.credential)) == {200}


async def test_it_goes_and_comes_back_on_the_same_ports(habit: Habit, client: PlainClient) -> None:
    before = habit.settings()
    await habit.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.ask(f"{habit.registry.base_url}/v2/")
    if habit.tokens is not None:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.ask(habit.tokens.url)
    await habit.start()
    assert habit.settings() == before
    assert set(await client.pull(habit, habit.samples[-1], habit.credential)) == {200}


async def test_it_tells_every_secret_that_was_used(habit: Habit, client: PlainClient) -> None:
    await client.pull(habit, habit.samples[-1], habit.credential)
    values = [request.headers.get("Authorization", "") for request in habit.registry.requests]
    if habit.tokens is not None:
        values += [request.headers.get("Authorization", "") for request in habit.tokens.requests]
    assert {value.partition(" ")[2] for value in values} - {""} <= habit.secrets
    assert habit.credential is None or habit.credential[1] in habit.secrets
    assert all(len(secret) > 12 for secret in habit.secrets)  # short ones would be found anywhere


@pytest.mark.parametrize("kind", [kind for kind in HABITS if kind.private is not None], ids=name_of)
async def test_a_credential_ends(habit: Habit, client: PlainClient) -> None:
    old = habit.credential
    habit.end_credential()
    assert old is not None
    assert habit.private is not None
    assert old[1] in habit.secrets
    assert set(await client.pull(habit, habit.private, old)) <= {401, 403}
    assert set(await client.pull(habit, habit.private, habit.credential)) == {200}


# Docker Hub


@pytest.fixture
async def hub() -> AsyncIterator[DockerHub]:
    async with DockerHub() as upstream:
        yield upstream


async def test_docker_hub_counts_what_is_got_and_only_that(hub: DockerHub, client: PlainClient) -> None:
    token, url = await client.token(hub, hub.public.repository), hub.manifest_url(hub.public)
    told = [(await client.ask(url, method=method, token=token)).headers for method in ("HEAD", "GET", "HEAD")]
    assert [headers["RateLimit-Remaining"] for headers in told] == ["100;w=21600", "99;w=21600", "99;w=21600"]
    assert {headers["RateLimit-Limit"] for headers in told} == {"100;w=21600"}
    assert {headers["Docker-RateLimit-Source"] for headers in told} == {"192.0.2.1"}


async def test_docker_hub_s_pull_limit_is_for_manifests_and_says_nothing_of_its_end(
    hub: DockerHub, client: PlainClient
) -> None:
    assert hub.registry.limit is not None
    hub.registry.limit.remaining = 0
    token, url = await client.token(hub, hub.public.repository), hub.manifest_url(hub.public)
    answer = await client.ask(url, token=token)
    assert answer.error[:2] == (429, "TOOMANYREQUESTS")
    assert "Retry-After" not in answer.headers
    assert (await client.ask(url, method="HEAD", token=token)).status == 200
    assert (await client.ask(hub.config_url(hub.public), token=token)).status == 307


async def test_docker_hub_s_abuse_limit_is_for_everything_and_bare(hub: DockerHub, client: PlainClient) -> None:
    token = await client.token(hub, hub.public.repository)
    hub.turn_away()
    urls = [hub.manifest_url(hub.public), hub.config_url(hub.public), f"{hub.registry.base_url}/v2/", hub.tokens.url]
    answers = [await client.ask(url, token=token) for url in urls]
    assert {(answer.status, answer.body) for answer in answers} == {(429, b"Too Many Requests\n")}
    assert all("RateLimit-Limit" not in answer.headers for answer in answers)
    hub.heal()
    assert set(await client.pull(hub, hub.public, None)) == {200}


async def test_docker_hub_gives_a_token_for_anything_and_refuses_it_then(hub: DockerHub, client: PlainClient) -> None:
    for repository in (MISSING, hub.private.repository):
        token = await client.token(hub, repository)
        answer = await client.ask(f"{hub.registry.base_url}/v2/{repository}/manifests/1", token=token)
        assert (answer.status, answer.parameter("error")) == (401, "insufficient_scope")


async def test_docker_hub_s_blobs_are_on_another_host_which_takes_no_token(hub: DockerHub, client: PlainClient) -> None:
    token = await client.token(hub, hub.public.repository)
    location = URL((await client.ask(hub.config_url(hub.public), token=token)).headers["Location"], encoded=True)
    assert location.host != URL(hub.registry.base_url).host
    assert (await client.ask(location, token=token)).status == 400
    assert (await client.ask(location, method="HEAD")).status == 403
    assert (await client.ask(location)).body == hub.public.image.config.content


async def test_docker_hub_s_token_service_is_another_origin(hub: DockerHub, client: PlainClient) -> None:
    answer = await client.ask(hub.manifest_url(hub.public))
    assert URL(answer.parameter("realm")).origin() != URL(hub.registry.base_url).origin()
    assert answer.parameter("service") == "registry.docker.io"
    reply = (await client.ask_token(hub, hub.public.scope)).json
    assert reply["token"] == reply["access_token"]
    assert {"expires_in", "issued_at"} < reply.keys()


# ghcr.io


async def test_ghcr_refuses_at_the_token_service(client: PlainClient) -> None:
    async with Ghcr() as ghcr:
        stale = ("octocat", "ghp_ended")
        assert (await client.ask_token(ghcr, ghcr.public.scope, stale)).error == (403, "DENIED", "denied")
        assert (await client.ask_token(ghcr, ghcr.private.scope)).status == 401
        assert (await client.ask_token(ghcr, f"repository:{MISSING}:pull")).status == 401
        assert (await client.ask_token(ghcr, ghcr.private.scope, ghcr.credential)).status == 200


async def test_ghcr_refuses_a_token_without_the_scope_at_the_registry(client: PlainClient) -> None:
    async with Ghcr() as ghcr:
        robot = ("robot", ghcr.access.users["robot"])
        token = await client.token(ghcr, ghcr.private.repository, robot)
        answer = await client.ask(ghcr.manifest_url(ghcr.private), token=token)
        assert answer.error == (403, "DENIED", "permission_denied: read_package")


async def test_ghcr_says_when_to_come_back_in_go_s_words_only(client: PlainClient) -> None:
    async with Ghcr() as ghcr:
        ghcr.turn_away()
        answer = await client.ask(ghcr.manifest_url(ghcr.public))
        assert answer.error == (429, "TOOMANYREQUESTS", "retry-after: 985.86µs, allowed: 44000/minute")
        assert "Retry-After" not in answer.headers


# GitLab


async def test_gitlab_gives_tokens_on_its_web_host(client: PlainClient) -> None:
    async with GitLab() as gitlab:
        challenge = await client.ask(gitlab.manifest_url(gitlab.public))
        realm = URL(challenge.parameter("realm"))
        assert (realm.path, challenge.parameter("service")) == ("/jwt/auth", "container_registry")
        assert realm.host != URL(gitlab.registry.base_url).host
        assert gitlab.settings()["upstreams.registry.gitlab.com.token_hosts"] == [realm.host]
        assert (await client.ask_token(gitlab, gitlab.public.scope)).names == {"token"}


async def test_gitlab_denies_who_has_no_name_and_gets_nothing(client: PlainClient) -> None:
    async with GitLab() as gitlab:
        assert (await client.ask_token(gitlab)).error[:2] == (403, "DENIED")
        assert (await client.ask_token(gitlab, gitlab.private.scope)).error[:2] == (403, "DENIED")
        assert (await client.ask_token(gitlab, credential=gitlab.credential)).status == 200


@pytest.mark.parametrize("status", [403, 429])
async def test_gitlab_bans_who_keeps_trying(client: PlainClient, status: int) -> None:
    async with GitLab() as gitlab:
        gitlab.tokens.ban_status = status
        scope, wrong = gitlab.public.scope, ("gitlab+deploy-token-1", "wrong")
        for number in range(gitlab.tokens.ban_after):
            assert (gitlab.tokens.bad_attempts, gitlab.tokens.is_banning) == (number, False)
            assert (await client.ask_token(gitlab, scope, wrong)).error[:2] == (403, "DENIED")
        for credential in (wrong, gitlab.credential, None):
            answer = await client.ask_token(gitlab, scope, credential)
            assert (answer.status, answer.body) == (status, b"Forbidden\n")
        gitlab.tokens.bad_attempts = 0
        assert (await client.ask_token(gitlab, scope, gitlab.credential)).status == 200


# Quay


async def test_quay_wants_a_scope_of_who_has_no_name(client: PlainClient) -> None:
    async with Quay() as quay:
        assert (await client.ask_token(quay)).status == 401
        assert (await client.ask_token(quay, credential=quay.credential)).status == 200
        assert [(await client.ask_token(quay, scope)).status for scope in ("repository", "a:b", "no scope")] == [
            400
        ] * 3
        answer = await client.ask_token(quay, quay.public.scope)
        assert (answer.status, answer.names) == (200, {"token"})


async def test_quay_gives_a_token_for_less_and_none_for_a_wrong_password(client: PlainClient) -> None:
    async with Quay() as quay:
        assert quay.credential is not None
        assert "+" in quay.credential[0]
        assert (await client.ask_token(quay, quay.private.scope)).status == 200
        assert (await client.ask_token(quay, quay.public.scope, ("org+robot", "wrong"))).status == 401
        token = await client.token(quay, quay.public.repository)
        location = URL((await client.ask(quay.config_url(quay.public), token=token)).headers["Location"], encoded=True)
        assert location.host != URL(quay.registry.base_url).host


# Harbor


async def test_harbor_s_scheme_flips(client: PlainClient) -> None:
    async with Harbor() as harbor:
        url = harbor.manifest_url(harbor.public)
        first = await client.ask(url)
        assert (first.challenge.partition(" ")[0], len(first.parameter("scope").split())) == ("Bearer", 2)
        for refused in (
            await client.ask(url, token="made up"),
            await client.ask(url, credential=("robot$proj+ci", "wrong")),
            await client.ask(harbor.manifest_url(harbor.private), token=await client.token(harbor, "proj/app")),
        ):
            assert (refused.status, refused.challenge) == (401, 'Basic realm="harbor"')
        assert (await client.ask(harbor.manifest_url(harbor.private), credential=harbor.credential)).status == 200


async def test_harbor_s_tokens_have_an_empty_twin(client: PlainClient) -> None:
    async with Harbor() as harbor:
        reply = (await client.ask_token(harbor, harbor.public.scope)).json
        assert (reply["access_token"], bool(reply["token"]), reply["expires_in"]) == ("", True, 1800)


# Without tokens, and with real ones


@pytest.mark.parametrize("kind", [Mcr, PlainRegistry])
async def test_who_asks_for_nothing_never_challenges(kind: Kind, client: PlainClient) -> None:
    async with kind() as upstream:
        assert (await client.ask(f"{upstream.registry.base_url}/v2/")).status == 200
        answer = await client.ask(upstream.config_url(upstream.samples[0]))
        assert answer.status == (307 if kind is Mcr else 200)
        assert (upstream.tokens, upstream.credential) == (None, None)


async def test_htpasswd_is_for_everything(client: PlainClient) -> None:
    async with HtpasswdRegistry() as registry:
        urls = [f"{registry.registry.base_url}/v2/", registry.manifest_url(registry.private)]
        assert {(await client.ask(url)).challenge for url in urls} == {'Basic realm="Registry Realm"'}
        assert {(await client.ask(url, credential=registry.credential)).status for url in urls} == {200}


async def test_debian_s_tokens_are_checked_by_debian(client: PlainClient) -> None:
    async with DebianTokens() as debian:
        url = debian.manifest_url(debian.public)
        challenge = await client.ask(url)
        assert (challenge.status, challenge.parameter("service")) == (401, "debian.example")
        token = await client.token(debian, debian.public.repository)
        assert token.count(".") == 2
        assert (await client.ask(url, token=token[:-4] + "AAAA")).status == 401
        head = await client.ask(url, method="HEAD", token=token)
        assert head.headers["Content-Length"] == str(len(debian.public.image.manifest))
        assert debian.registry.count(status=401) == 2
