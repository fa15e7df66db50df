"""How the mirror proves itself to upstreams, and to whom its credential and its clients' never go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.functional.conftest import StartMirror
from tests.support.access import Access, BasicGate, read_basic
from tests.support.debian_registry import DebianRegistry, TokenAuth
from tests.support.faults import Fault, Redirect, RefuseHead, Slow, Status
from tests.support.images import Image, docker_image, oci_image
from tests.support.pulling import MirrorClient
from tests.support.record import Recorded
from tests.support.registry import TestRegistry
from tests.support.replies import Reply
from tests.support.signing import TokenSigner
from tests.support.tokens import BearerGate, Challenge, TokenService, TokenSettings, write_challenge

PUBLIC, PRIVATE, OTHER = "library/public", "team/private", "team/other"
PUBLIC_IMAGE, PRIVATE_IMAGE, OTHER_IMAGE = docker_image(1), oci_image(2), oci_image(3)
USER, PASSWORD = "robot+ci$1", "correct horse:battery%staple"
LIFETIME_SECONDS = 300
NEGATIVE_SECONDS = 10


def path_of(repository: str) -> str:
    return f"/v2/{repository}/manifests/1"


@pytest.fixture
def access() -> Access:
    return Access(users={USER: PASSWORD}, private={PRIVATE: {USER}, OTHER: {USER}})


@pytest.fixture
async def tokens(access: Access) -> AsyncIterator[TokenService]:
    async with TokenService(access) as service:
        yield service


@pytest.fixture
def registry(registry: TestRegistry, tokens: TokenService) -> TestRegistry:
    """Wants tokens; two repositories of three are private."""
    registry.gate = BearerGate(tokens)
    registry.add(PUBLIC, "1", PUBLIC_IMAGE)
    registry.add(PRIVATE, "1", PRIVATE_IMAGE)
    registry.add(OTHER, "1", OTHER_IMAGE)
    return registry


StartTrusted = Callable[..., Any]


@pytest.fixture
def start_trusted(registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path) -> StartTrusted:
    """Start a mirror with a credential, by default the right one."""

    async def start(password: str = PASSWORD, **more: object) -> MirrorClient:
        secret = tmp_path / "password"
        secret.write_text(f"{password}\n", encoding="utf-8")
        keys = {"username": USER, "password_file": str(secret), **more}
        overrides = {f"upstreams.docker.io.{key}": value for key, value in keys.items()}
        return await start_mirror(registry.base_url, overrides=overrides)

    return start


@pytest.fixture
async def trusted(start_trusted: StartTrusted) -> MirrorClient:
    client: MirrorClient = await start_trusted()
    return client


async def assert_pulled(client: MirrorClient, repository: str, image: Image) -> None:
    answers = await client.pull(repository, "1", image)
    assert [answer.status for answer in answers.values()] == [200] * len(answers)
    assert all(answers[blob.digest].body == blob.content for blob in image.blobs)


def credentials_in(requests: list[Recorded]) -> list[tuple[str, str] | None]:
    return [read_basic(request.headers) for request in requests]


# Basic


async def test_a_basic_upstream_is_given_the_credential(
    registry: TestRegistry, access: Access, trusted: MirrorClient
) -> None:
    registry.gate = BasicGate(access)
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    assert registry.count(status=401) == 1  # asked once, known from then on


async def test_a_basic_upstream_without_a_credential_is_404(
    registry: TestRegistry, access: Access, client: MirrorClient
) -> None:
    registry.gate = BasicGate(access)
    answer = await client.get(path_of(PUBLIC))
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
    assert "WWW-Authenticate" not in answer.headers


async def test_a_basic_upstream_is_not_asked_again_and_again_with_a_wrong_password(
    registry: TestRegistry, access: Access, start_trusted: StartTrusted
) -> None:
    """Some services ban whoever keeps trying."""
    registry.gate = BasicGate(access)
    client = await start_trusted("wrong")
    assert (await client.get(path_of(PRIVATE))).status == 404
    registry.reset_record()
    for number in range(5):
        assert (await client.get(f"/v2/{OTHER}/manifests/{number}")).status == 404
    assert set(credentials_in(registry.requests)) == {None}


class OpenBasicGate(BasicGate):
    """Lets everybody have what is public, and refuses whoever shows a wrong password."""

    def check(self, recorded: Recorded) -> Reply | None:
        if "Authorization" not in recorded.headers and self.access.allows(None, recorded.repository or ""):
            return None
        return super().check(recorded)


async def test_a_password_that_was_changed_leaves_public_images_of_a_basic_upstream(
    registry: TestRegistry, access: Access, trusted: MirrorClient
) -> None:
    registry.gate = OpenBasicGate(access)
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    access.users[USER] = "changed"
    await assert_pulled(trusted, PUBLIC, PUBLIC_IMAGE)


# Bearer


async def test_public_content_needs_no_credential(tokens: TokenService, client: MirrorClient) -> None:
    await assert_pulled(client, PUBLIC, PUBLIC_IMAGE)
    assert credentials_in(tokens.requests) == [None]


async def test_private_content_without_a_credential_is_404_and_no_challenge(client: MirrorClient) -> None:
    answer = await client.get(path_of(PRIVATE))
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
    assert "WWW-Authenticate" not in answer.headers


async def test_private_content_is_pulled_with_the_credential(tokens: TokenService, trusted: MirrorClient) -> None:
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    assert credentials_in(tokens.requests) == [(USER, PASSWORD)]


async def test_a_token_is_asked_for_once_a_repository_and_lifetime(
    registry: TestRegistry, tokens: TokenService, trusted: MirrorClient
) -> None:
    for repository, image in ((PUBLIC, PUBLIC_IMAGE), (PRIVATE, PRIVATE_IMAGE), (OTHER, OTHER_IMAGE)):
        await assert_pulled(trusted, repository, image)
    scopes = [request.facts["scopes"] for request in tokens.requests]
    assert scopes == [[f"repository:{name}:pull"] for name in (PUBLIC, PRIVATE, OTHER)]
    assert registry.count(status=401) == 1


async def test_a_token_request_names_service_and_account(tokens: TokenService, trusted: MirrorClient) -> None:
    await trusted.get(path_of(PRIVATE))
    (request,) = tokens.requests
    scope = f"repository:{PRIVATE}:pull"
    assert dict(request.query) == {"service": "registry.test", "scope": scope, "account": USER}


async def test_many_at_once_share_one_token_request(tokens: TokenService, trusted: MirrorClient) -> None:
    digests = [PRIVATE_IMAGE.digest, *(blob.digest for blob in PRIVATE_IMAGE.blobs)]
    paths = [f"/v2/{PRIVATE}/manifests/1", f"/v2/{PRIVATE}/tags/list", *(f"/v2/{PRIVATE}/blobs/{x}" for x in digests)]
    answers = await asyncio.gather(*(trusted.get(path) for path in paths * 4))
    assert {answer.status for answer in answers} == {200}
    assert len(tokens.requests) == 1


@pytest.mark.parametrize("ending", ["revoked", "expired"])
async def test_a_token_that_has_ended_is_renewed_once(
    registry: TestRegistry, tokens: TokenService, trusted: MirrorClient, ending: str
) -> None:
    await trusted.get(path_of(PRIVATE))
    tokens.record.clear()
    registry.reset_record()
    if ending == "revoked":
        tokens.revoke_all()
    else:
        tokens.clock.advance(LIFETIME_SECONDS + 1)
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    assert len(tokens.requests) == 1
    assert registry.count(status=401) == 1


async def test_a_token_that_is_never_accepted_is_an_answer_and_no_loop(
    registry: TestRegistry, tokens: TokenService, trusted: MirrorClient
) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{tokens.url}",service="registry.test",error="invalid_token"'}
    registry.fail(Fault(action=Status(status=401, headers=challenge)))
    assert (await trusted.get(path_of(PRIVATE))).status == 404
    assert len(tokens.requests) <= 4
    assert len(registry.requests) <= 4


@pytest.mark.parametrize(
    "settings",
    [
        TokenSettings(fields={"token": "{}"}),
        TokenSettings(fields={"access_token": "{}"}),
        TokenSettings(fields={"token": "{}", "access_token": ""}),
        TokenSettings(fields={"token": "", "access_token": "{}"}),
        TokenSettings(tells_expires_in=False),
        TokenSettings(expires_in_seconds=0 + 5),
        TokenSettings(scopeless_anonymous_status=401),
        TokenSettings(post_status=404),
        TokenSettings(denied_status=401),
        TokenSettings(fields={"padding": "x" * 600_000, "token": "{}"}),
    ],
    ids=["token", "access_token", "no access_token", "no token", "no lifetime", "short", "Quay", "GET", "GHCR", "long"],
)
async def test_token_services_differ_in_their_habits(
    tokens: TokenService, trusted: MirrorClient, settings: TokenSettings
) -> None:
    tokens.settings = settings
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    await assert_pulled(trusted, PUBLIC, PUBLIC_IMAGE)
    assert len(tokens.requests) == 2


async def test_a_registry_that_has_changed_from_tokens_to_basic_is_learned_anew(
    registry: TestRegistry, access: Access, trusted: MirrorClient
) -> None:
    await trusted.get(path_of(PRIVATE))
    registry.gate = BasicGate(access)
    await trusted.get(path_of(OTHER))
    trusted.mirror.clock.advance(NEGATIVE_SECONDS)
    await assert_pulled(trusted, OTHER, OTHER_IMAGE)


class SecretiveBasicGate(BasicGate):
    """Answers 401 for what a user may not have, as for a wrong password."""

    def check(self, recorded: Recorded) -> Reply | None:
        refused = super().check(recorded)
        return None if refused is None else Reply(status=401, headers=refused.headers, body=refused.body)


async def test_another_user_s_repository_of_a_basic_upstream_is_no_refusal_of_the_credential(
    registry: TestRegistry, access: Access, trusted: MirrorClient
) -> None:
    registry.gate = SecretiveBasicGate(access)
    access.private[OTHER] = {"somebody else"}
    with capture_logs() as logs:
        assert (await trusted.get(path_of(OTHER))).status == 404
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    assert [entry for entry in logs if entry["event"] == "upstream.credential_refused"] == []


async def test_a_token_that_comes_in_pieces_is_waited_for(tokens: TokenService, trusted: MirrorClient) -> None:
    tokens.fail(Fault(action=Slow(chunk_bytes=40, between_chunks_seconds=0.01)))
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)


@pytest.mark.parametrize(
    "write",
    [
        lambda it: f'bearer SERVICE={it.service}, Realm="{it.realm}"',
        lambda it: f'Negotiate, Basic realm="x, y", {write_challenge(it)}',
        lambda it: f'Bearer realm="{it.realm}",service="{it.service}",scope="repository:a:pull,push repository:b:pull"',
        lambda it: f'Bearer scope="a,b",error="x \\" y",realm="{it.realm}", service = "{it.service}"',
    ],
    ids=["bare", "several", "many scopes", "odd"],
)
async def test_challenges_are_worded_in_many_ways(
    registry: TestRegistry, tokens: TokenService, trusted: MirrorClient, write: Callable[[Challenge], str]
) -> None:
    registry.gate = BearerGate(tokens, write=write)
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    assert tokens.requests[0].facts["scopes"] == [f"repository:{PRIVATE}:pull"]


class QuietGate(BearerGate):
    """Challenges on ``/v2/`` only, as gcr.io has done."""

    def check(self, recorded: Recorded) -> Reply | None:
        refused = super().check(recorded)
        if refused is not None and recorded.kind != "ping":
            del refused.headers["WWW-Authenticate"]
        return refused


async def test_a_challenge_that_is_missing_is_learned_from_the_ping(
    registry: TestRegistry, tokens: TokenService, trusted: MirrorClient
) -> None:
    registry.gate = QuietGate(tokens)
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    assert registry.count(kind="ping") == 1


async def test_a_registry_that_asks_for_basic_when_a_token_has_ended_gets_a_new_token(
    registry: TestRegistry, tokens: TokenService, client: MirrorClient
) -> None:
    """Harbor does: the scheme flips with every Authorization that it does not like."""
    registry.gate = BearerGate(tokens, write=lambda it: 'Basic realm="harbor"' if it.error else write_challenge(it))
    await assert_pulled(client, PUBLIC, PUBLIC_IMAGE)
    tokens.revoke_all()
    client.mirror.clock.advance(61)
    assert (await client.get(path_of(PUBLIC))).cache_status == "mirror; fwd=stale; fwd-status=200"


# A credential that is refused


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_credential_leaves_public_images_and_is_said_loudly(
    registry: TestRegistry, tokens: TokenService, start_trusted: StartTrusted, status: int
) -> None:
    tokens.settings.bad_credential_status = status
    client = await start_trusted("wrong")
    with capture_logs() as logs:
        await assert_pulled(client, PUBLIC, PUBLIC_IMAGE)
        assert (await client.get(path_of(PRIVATE))).status == 404
    (said,) = [entry for entry in logs if entry["event"] == "upstream.credential_refused"]
    assert (said["log_level"], said["upstream"]) == ("warning", "docker.io")
    sent = credentials_in(tokens.requests)
    assert sent[:3] == [(USER, "wrong"), (USER, "wrong"), None]  # for the repository, for nothing, without it
    assert set(sent[3:]) == {None}
    metric = client.mirror.metrics.get_sample_value
    assert metric("mirror_upstream_auth_failures_total", {"upstream": "docker.io"}) == 1


async def test_a_credential_that_works_again_is_used_again(
    registry: TestRegistry, access: Access, start_trusted: StartTrusted
) -> None:
    access.users[USER] = "not yet"
    client = await start_trusted(PASSWORD)
    assert (await client.get(path_of(PRIVATE))).status == 404
    access.users[USER] = PASSWORD
    client.mirror.clock.advance(3600)
    assert (await client.get(path_of(PRIVATE))).status == 200


@pytest.mark.parametrize("status", [401, 403])
async def test_a_repository_that_is_refused_is_no_refusal_of_the_credential(
    access: Access, tokens: TokenService, trusted: MirrorClient, status: int
) -> None:
    """GHCR and GitLab refuse at the token service: a client's mistyped name must not lock everybody out."""
    tokens.settings.denied_status = status
    access.private[OTHER] = {"somebody else"}
    await trusted.get(path_of(PRIVATE))
    with capture_logs() as logs:
        assert (await trusted.get(path_of(OTHER))).status in {403, 404}
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    access.private["team/new"] = {USER}
    await trusted.get(path_of("team/new"))
    assert credentials_in(tokens.requests)[-1] == (USER, PASSWORD)
    assert [entry for entry in logs if entry["event"] == "upstream.credential_refused"] == []


# To whom a credential goes


async def test_a_realm_on_a_foreign_host_gets_no_credential(tokens: TokenService, trusted: MirrorClient) -> None:
    """The realm is the upstream's word: distribution's proxy sent its password to any (CVE-2026-33540)."""
    tokens.settings.realm = tokens.url.replace("127.0.0.1", "localhost")
    with capture_logs() as logs:
        assert (await trusted.get(path_of(PRIVATE))).status == 404
        assert (await trusted.get(path_of(PUBLIC))).status == 200
    assert set(credentials_in(tokens.requests)) == {None}
    assert all("account" not in request.query for request in tokens.requests)
    assert "upstream.realm_untrusted" in {entry["event"] for entry in logs}


async def test_the_operator_may_trust_a_foreign_realm(tokens: TokenService, start_trusted: StartTrusted) -> None:
    tokens.settings.realm = tokens.url.replace("127.0.0.1", "localhost")
    client = await start_trusted(token_hosts=["localhost"])
    await assert_pulled(client, PRIVATE, PRIVATE_IMAGE)


async def test_a_token_service_that_redirects_is_not_followed_with_the_credential(
    registry: TestRegistry, tokens: TokenService, trusted: MirrorClient
) -> None:
    async with TokenService() as elsewhere:
        tokens.fail(Fault(action=Redirect(to=elsewhere.server.base_url)))
        assert (await trusted.get(path_of(PRIVATE))).status == 502
        assert elsewhere.requests == []


@pytest.mark.parametrize("relative", [False, True])
async def test_a_redirected_blob_is_fetched_by_its_signed_link_without_authorization(
    registry: TestRegistry,
    trusted: MirrorClient,
    relative: bool,  # noqa: FBT001
) -> None:
    registry.fail(Fault(action=Redirect(relative=relative), kind="blob"))
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    fetched = registry.record.select(kind="cdn")
    assert [request.status for request in fetched] == [200] * len(PRIVATE_IMAGE.blobs)
    if not relative:
        assert all("Authorization" not in request.headers for request in fetched)


async def test_a_redirect_may_lead_to_another_one(registry: TestRegistry, trusted: MirrorClient) -> None:
    registry.fail(Fault(action=Redirect(), kind="blob"), Fault(action=Redirect(), kind="cdn", times=1))
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)


async def test_redirects_have_an_end(registry: TestRegistry, trusted: MirrorClient) -> None:
    registry.fail(Fault(action=Redirect(), kind="blob"), Fault(action=Redirect(), kind="cdn"))
    answer = await trusted.get(f"/v2/{PRIVATE}/blobs/{PRIVATE_IMAGE.config.digest}")
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")


async def test_a_manifest_may_be_redirected_to_another_registry_that_wants_no_token_of_ours(
    registry: TestRegistry, tokens: TokenService, trusted: MirrorClient
) -> None:
    """registry.k8s.io sends everything elsewhere; what the credential is for stays here."""
    async with TestRegistry() as elsewhere, TokenService() as their_tokens:
        elsewhere.gate = BearerGate(their_tokens)
        elsewhere.add(PUBLIC, "1", PUBLIC_IMAGE)
        registry.fail(Fault(action=Redirect(to=elsewhere.base_url), kind="manifest"))
        assert (await trusted.get(path_of(PUBLIC))).body == PUBLIC_IMAGE.manifest
        sent = {request.headers.get("Authorization") for request in registry.requests} - {None}
        assert sent.isdisjoint(request.headers.get("Authorization") for request in elsewhere.requests)
        assert set(credentials_in(their_tokens.requests)) == {None}


async def test_what_a_client_sends_unasked_goes_nowhere(
    registry: TestRegistry, tokens: TokenService, client: MirrorClient
) -> None:
    """Docker sends a Docker Hub password to any mirror that asks; this one neither asks nor passes it on."""
    basic = "Basic Y2xpZW50OmNsaWVudHMtc2VjcmV0"
    with capture_logs() as logs:
        answer = await client.ask(path_of(PUBLIC), headers={"Authorization": basic, "Cookie": "clients-cookie"})
    assert answer.status == 200
    everything = [*registry.requests, *tokens.requests]
    assert all(basic != request.headers.get("Authorization") for request in everything)
    assert all("Cookie" not in request.headers for request in everything)
    assert "Y2xpZW50" not in repr(logs)
    assert "clients-" not in repr(logs)


async def test_no_secret_is_logged(
    registry: TestRegistry, tokens: TokenService, trusted: MirrorClient, start_trusted: StartTrusted
) -> None:
    registry.fail(Fault(action=Redirect(), kind="blob"))
    with capture_logs() as logs:  # of every level
        await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
        tokens.revoke_all()
        await registry.cdn.server.stop()
        assert (await trusted.get(f"/v2/{OTHER}/blobs/{OTHER_IMAGE.config.digest}")).status == 504
        await registry.cdn.server.start()
        client = await start_trusted("another wrong secret")
        await client.get(path_of(OTHER))
    text = repr(logs)
    issued = [request.headers["Authorization"] for request in registry.requests if "Authorization" in request.headers]
    for secret in (PASSWORD, "another wrong secret", "X-Amz-Signature", *(value.split()[1] for value in issued)):
        assert secret not in text
    exposed = b"".join([(await trusted.get(path)).body for path in ("/metrics", "/readyz", "/v2/_catalog")])
    assert PASSWORD.encode() not in exposed
    assert USER.encode() not in exposed


# A repository serves only what it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Something private that the mirror has stored."""

    path: str
    content: bytes
    code: str


STORED = {
    "blob": Stored(
        path=f"blobs/{PRIVATE_IMAGE.layers[0].digest}", content=PRIVATE_IMAGE.layers[0].content, code="BLOB_UNKNOWN"
    ),
    "config": Stored(
        path=f"blobs/{PRIVATE_IMAGE.config.digest}", content=PRIVATE_IMAGE.config.content, code="BLOB_UNKNOWN"
    ),
    "manifest": Stored(
        path=f"manifests/{PRIVATE_IMAGE.digest}", content=PRIVATE_IMAGE.manifest, code="MANIFEST_UNKNOWN"
    ),
    "manifest as blob": Stored(
        path=f"blobs/{PRIVATE_IMAGE.digest}", content=PRIVATE_IMAGE.manifest, code="BLOB_UNKNOWN"
    ),
}


@pytest.mark.parametrize("what", STORED)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_stored_private_thing_is_not_served_through_a_repository_that_lacks_it(
    registry: TestRegistry, trusted: MirrorClient, what: str, method: str
) -> None:
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    registry.reset_record()
    answer = await trusted.ask(f"/v2/{PUBLIC}/{STORED[what].path}", method=method)
    assert answer.status == 404
    if method == "GET":
        assert answer.code == STORED[what].code
    assert {request.repository for request in registry.requests} == {PUBLIC}  # it was asked


@pytest.mark.parametrize("what", STORED)
async def test_nor_while_the_upstream_cannot_say(registry: TestRegistry, trusted: MirrorClient, what: str) -> None:
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    registry.fail(Fault(action=Status(status=503)))
    assert (await trusted.get(f"/v2/{PUBLIC}/{STORED[what].path}")).status == 502
    assert (await trusted.get(f"/v2/{PRIVATE}/{STORED[what].path}")).body == STORED[what].content


@pytest.mark.parametrize("what", STORED)
@pytest.mark.parametrize("refuses_head", [False, True])
async def test_a_repository_that_holds_it_too_is_asked_once_and_transfers_nothing(
    registry: TestRegistry,
    trusted: MirrorClient,
    what: str,
    refuses_head: bool,  # noqa: FBT001
) -> None:
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    registry.add(PUBLIC, "copy", PRIVATE_IMAGE)
    registry.reset_record()
    if refuses_head:
        registry.fail(Fault(action=RefuseHead(status=401)))
    for _ in range(2):
        answer = await trusted.get(f"/v2/{PUBLIC}/{STORED[what].path}")
        assert (answer.status, answer.body) == (200, STORED[what].content)
    if not refuses_head:
        assert [request.method for request in registry.requests] == ["HEAD"]
    elif what != "manifest":
        assert registry.bytes_sent("blob") <= 1


async def test_a_public_index_that_names_a_private_manifest_does_not_give_it_away(
    registry: TestRegistry, trusted: MirrorClient
) -> None:
    """A registry takes an index whose manifests it does not have: anybody could name another's there."""
    await assert_pulled(trusted, PRIVATE, PRIVATE_IMAGE)
    body = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' % (
        b'{"mediaType":"%s","digest":"%s","size":%d}'
        % (PRIVATE_IMAGE.media_type.encode(), PRIVATE_IMAGE.digest.encode(), len(PRIVATE_IMAGE.manifest))
    )
    registry.add_manifest(PUBLIC, "index", body, "application/vnd.oci.image.index.v1+json")
    assert (await trusted.get(f"/v2/{PUBLIC}/manifests/index")).status == 200
    assert (await trusted.get(f"/v2/{PUBLIC}/manifests/{PRIVATE_IMAGE.digest}")).status == 404


# A registry that we did not write


async def test_debians_registry_behind_a_token_service_is_pulled_through(
    access: Access, start_mirror: StartMirror, tmp_path: Path
) -> None:
    signer = TokenSigner()
    async with TokenService(access, signer=signer) as service:
        auth = TokenAuth(realm=service.url, service=service.settings.service, signer=signer)
        async with DebianRegistry(auth=auth) as debian:
            for repository, image in ((PUBLIC, PUBLIC_IMAGE), (PRIVATE, PRIVATE_IMAGE)):
                await asyncio.to_thread(debian.push, repository, "1", image)
            (tmp_path / "password").write_text(PASSWORD, encoding="utf-8")
            keys = {"username": USER, "password_file": str(tmp_path / "password")}
            overrides = {f"upstreams.docker.io.{key}": value for key, value in keys.items()}
            client = await start_mirror(debian.base_url, overrides=overrides)
            for repository, image in ((PUBLIC, PUBLIC_IMAGE), (PRIVATE, PRIVATE_IMAGE)):
                await assert_pulled(client, repository, image)
                assert (await client.get(f"/v2/{repository}/tags/list")).json["tags"] == ["1"]
            assert (await client.get(f"/v2/{PUBLIC}/blobs/{PRIVATE_IMAGE.config.digest}")).status == 404
            assert (await client.get(path_of("team/none"))).status == 404
            client.mirror.clock.advance(61)
            assert (await client.get(path_of(PRIVATE))).cache_status == "mirror; fwd=stale; fwd-status=200"
            await asyncio.to_thread(debian.stop)
            client.mirror.clock.advance(61)
            await assert_pulled(client, PRIVATE, PRIVATE_IMAGE)
