"""The test upstreams named after cloud providers behave as those do: Google, Kubernetes, Amazon, Azure."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest
from yarl import URL

from tests.support.habits import Acr, ArtifactRegistry, PrivateEcr, PublicEcr, RegistryK8s
from tests.support.habits.client import PlainClient, plain_client


@pytest.fixture
async def client() -> AsyncIterator[PlainClient]:
    async with plain_client() as opened:
        yield opened


# Artifact Registry


async def test_artifact_registry_names_its_service_only_for_a_repository(client: PlainClient) -> None:
    async with ArtifactRegistry() as google:
        ping = await client.ask(f"{google.registry.base_url}/v2/")
        assert (ping.status, ping.challenge) == (401, f'Bearer realm="{google.tokens.url}"')
        asked = await client.ask(google.manifest_url(google.public))
        assert (asked.parameter("service"), asked.parameter("scope")) == (google.name, google.public.scope)
        assert (await client.ask(google.tokens.url, method="POST", form={"grant_type": "password"})).status == 404


async def test_artifact_registry_redirects_to_a_path(client: PlainClient) -> None:
    async with ArtifactRegistry() as google:
        token = await client.token(google, google.public.repository)
        answer = await client.ask(google.config_url(google.public), token=token)
        assert (answer.status, answer.headers["Location"][0]) == (302, "/")


async def test_artifact_registry_knows_three_kinds_of_user(client: PlainClient) -> None:
    async with ArtifactRegistry() as google:
        assert list(google.access.users) == ["_json_key", "_json_key_base64", "oauth2accesstoken"]
        assert base64.b64decode(google.access.users["_json_key_base64"]).decode() == google.access.users["_json_key"]
        for credential in google.access.users.items():
            assert set(await client.pull(google, google.private, credential)) == {200}
        old = ("oauth2accesstoken", google.access.users["oauth2accesstoken"])
        new = google.replace_access_token()
        answers = [await client.ask_token(google, google.private.scope, each) for each in (old, new)]
        assert [answer.status for answer in answers] == [401, 200]


# registry.k8s.io


async def test_registry_k8s_sends_manifests_to_a_host_with_its_own_challenge(client: PlainClient) -> None:
    async with RegistryK8s() as k8s:
        assert (await client.ask(f"{k8s.registry.base_url}/v2/")).status == 200
        assert (await client.ask(f"{k8s.registry.base_url}/v2/_catalog")).status == 404
        front = await client.ask(k8s.manifest_url(k8s.public))
        target = URL(front.headers["Location"])
        assert (front.status, target.path) == (307, "/v2/k8s-artifacts-prod/images/pause/manifests/3.10")
        assert target.host != URL(k8s.registry.base_url).host
        behind = await client.ask(target)
        assert behind.parameter("scope") == "repository:k8s-artifacts-prod/images/pause:pull"
        wrong = await client.ask(target, token=await client.token(k8s, "pause"))
        assert (wrong.status, wrong.parameter("error")) == (401, "insufficient_scope")


async def test_registry_k8s_has_its_blobs_in_a_bucket(client: PlainClient) -> None:
    async with RegistryK8s() as k8s:
        answer = await client.ask(k8s.config_url(k8s.public))
        hosts = {URL(url).host for url in (answer.headers["Location"], k8s.registry.base_url, k8s.behind.base_url)}
        assert (answer.status, len(hosts)) == (307, 3)


# Amazon


async def test_public_ecr_refuses_head_of_a_blob_and_says_400_for_an_old_token(client: PlainClient) -> None:
    async with PublicEcr() as ecr:
        token = await client.token(ecr, ecr.public.repository)
        answers = [
            await client.ask(ecr.config_url(ecr.public), method=method, token=token) for method in ("HEAD", "GET")
        ]
        assert [answer.status for answer in answers] == [401, 307]
        ecr.tokens.revoke_all()
        for answer in (
            await client.ask(ecr.manifest_url(ecr.public), token=token),
            await client.ask(ecr.manifest_url(ecr.public), credential=("AWS", "password")),
        ):
            assert answer.error == (400, "DENIED", "Your Authorization Token is invalid.")
            assert not answer.challenge


async def test_public_ecr_has_enough(client: PlainClient) -> None:
    async with PublicEcr() as ecr:
        ecr.turn_away()
        assert (await client.ask(ecr.manifest_url(ecr.public))).error == (429, "TOOMANYREQUESTS", "Rate exceeded")


async def test_private_ecr_is_basic_and_tells_the_digest_in_head_only(client: PlainClient) -> None:
    async with PrivateEcr() as ecr:
        url = ecr.manifest_url(ecr.private)
        assert (await client.ask(url)).challenge.startswith("Basic ")
        assert (await client.ask(url, credential=("AWS", "wrong"))).status == 401
        answers = [await client.ask(url, method=method, credential=ecr.credential) for method in ("GET", "HEAD")]
        assert [answer.status for answer in answers] == [200, 200]
        assert ["Docker-Content-Digest" in answer.headers for answer in answers] == [False, True]
        assert (await client.ask(ecr.config_url(ecr.private), credential=ecr.credential)).status == 307
        tags = url.replace("manifests/1", "tags/list?n=1001")
        assert (await client.ask(tags, credential=ecr.credential)).status == 405


async def test_a_password_of_private_ecr_ends_after_twelve_hours(client: PlainClient) -> None:
    async with PrivateEcr() as ecr:
        old, url = ecr.credential, ecr.manifest_url(ecr.private)
        ecr.clock.advance(6 * 3600)
        ecr.make_password()
        assert ecr.credential != old
        assert (await client.ask(url, credential=old)).status == 200
        ecr.clock.advance(6 * 3600)
        answer = await client.ask(url, credential=old)
        assert answer.error[:2] == (403, "DENIED")
        assert not answer.challenge
        assert (await client.ask(url, credential=ecr.credential)).status == 200


# Azure


async def test_acr_exchanges_tokens(client: PlainClient) -> None:
    async with Acr() as acr:
        exchange = acr.tokens.url.replace("/token", "/exchange")
        form = {"service": acr.name, "tenant": acr.tokens.tenant, "access_token": acr.tokens.entra_token}
        given = await client.ask(exchange, method="POST", form={**form, "grant_type": "access_token"})
        assert (given.status, given.names) == (200, {"refresh_token"})
        wrong = {**form, "grant_type": "access_token", "access_token": "wrong"}
        assert (await client.ask(exchange, method="POST", form=wrong)).status == 401
        asked = {"grant_type": "refresh_token", "service": acr.name, "scope": acr.private.scope, **given.json}
        answer = await client.ask(acr.tokens.url, method="POST", form=asked)
        assert (answer.status, answer.names) == (200, {"access_token"})
        assert (await client.ask(acr.manifest_url(acr.private), token=answer.json["access_token"])).status == 200


async def test_acr_takes_a_password_by_get_only(client: PlainClient) -> None:
    async with Acr() as acr:
        name, password = acr.repository_token
        form = {"grant_type": "password", "service": acr.name, "username": name, "password": password}
        assert (await client.ask(acr.tokens.url, method="POST", form=form)).status == 400
        assert (await client.ask_token(acr, acr.private.scope)).status == 401
        for credential in (acr.repository_token, acr.credential):
            token = await client.token(acr, acr.private.repository, credential)
            assert (await client.ask(acr.config_url(acr.private), token=token)).status == 307
        assert acr.credential[0] == "00000000-0000-0000-0000-000000000000"
