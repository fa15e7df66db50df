"""The test servers do what tests rely on: every fault, the record, tokens, life and death of processes."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Literal

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from tests.support import faults
from tests.support.access import Access, BasicGate
from tests.support.debian_registry import DebianRegistry, TokenAuth, Upstream
from tests.support.faults import Fault
from tests.support.images import DOCKER_LIST, Blob, Index, blob, digest_of, docker_image, docker_list, oci_index
from tests.support.process import RegistryProcess
from tests.support.registry import RateLimit, TestRegistry
from tests.support.signing import TokenSigner
from tests.support.tokens import BearerGate, TokenService, TokenSettings

LAYER = blob(500_000, 1)
NAME = "team/app"
Answer = tuple[int, CIMultiDictProxy[str], bytes]


@pytest.fixture
async def registry() -> AsyncIterator[TestRegistry]:
    async with TestRegistry() as started:
        started.add(NAME, "latest", docker_image())
        started.add_blob(NAME, LAYER)
        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(force_close=True)  # a reused connection that breaks is tried again by aiohttp
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as opened:
        yield opened


async def ask(
    session: aiohttp.ClientSession, url: str | URL, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> Answer:
    async with session.request(method, url, headers=headers, allow_redirects=False) as response:
        return response.status, response.headers, await response.read()


def url_of(registry: TestRegistry | RegistryProcess, layer: Blob = LAYER) -> str:
    return f"{registry.base_url}/v2/{NAME}/blobs/{layer.digest}"


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": aiohttp.encode_basic_auth(user, password)}


@pytest.mark.parametrize("index", [docker_list(), oci_index()])
def test_images_are_what_their_digests_say(index: Index) -> None:
    assert [entry["digest"] for entry in json.loads(index.manifest)["manifests"]] == [x.digest for x in index.images]
    for image in index.images:
        assert image.digest == digest_of(image.manifest)
        diff_ids = json.loads(image.config.content)["rootfs"]["diff_ids"]
        assert diff_ids == [digest_of(gzip.decompress(layer.content)) for layer in image.layers]
        assert [layer.descriptor for layer in image.layers] == json.loads(image.manifest)["layers"]


def test_a_blob_is_a_function_of_its_seed_and_does_not_shrink() -> None:
    assert blob(3_000_000, 7).digest == blob(3_000_000, 7).digest != blob(3_000_000, 8).digest
    assert len(gzip.compress(blob(3_000_000, 7).content)) > 2_990_000


@pytest.mark.parametrize(
    "action",
    [
        faults.Status(status=503, headers={"Retry-After": "3"}, body=b"\xff"),
        faults.Replace(),
        faults.Cut(after_bytes=3),
    ],
)
def test_faults_travel_as_json(action: faults.Action) -> None:
    fault = Fault(action=action, kind="blob", times=2, skip=1)
    assert faults.from_json(json.loads(json.dumps(faults.to_json(fault)))) == fault


@pytest.mark.parametrize(
    ("action", "sent"),
    [
        (faults.Cut(), 250_000),
        (faults.Cut(after_bytes=7), 7),
        (faults.Cut(after_bytes=0), 0),
        (faults.Reset(after_bytes=100_000), 100_000),
    ],
)
async def test_a_broken_body_is_counted_to_the_byte(
    registry: TestRegistry, session: aiohttp.ClientSession, action: faults.Action, sent: int
) -> None:
    registry.fail(Fault(action=action, kind="blob", times=1))
    with pytest.raises(aiohttp.ClientError):
        await ask(session, url_of(registry))
    assert registry.bytes_sent("blob") == sent
    assert (await ask(session, url_of(registry)))[2] == LAYER.content
    assert registry.count(kind="blob", method="GET") == 2


async def test_a_reset_before_the_headers(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.fail(Fault(action=faults.Reset(after_bytes=0), kind="blob", times=2))  # aiohttp asks a second time
    with pytest.raises(aiohttp.ClientOSError):
        await ask(session, url_of(registry))
    assert (registry.count(kind="blob"), registry.bytes_sent("blob")) == (2, 0)


async def test_a_resumed_body_is_counted_from_where_it_resumes(
    registry: TestRegistry, session: aiohttp.ClientSession
) -> None:
    status, _, body = await ask(session, url_of(registry), headers={"Range": "bytes=400000-"})
    assert (status, body) == (206, LAYER.content[400_000:])
    assert registry.bytes_sent("blob") == 100_000
    assert registry.requests[-1].range == "bytes=400000-"


async def test_silence_holds_the_rest_until_released(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.fail(Fault(action=faults.Silence(after_bytes=300_000), kind="blob"))
    async with session.get(url_of(registry)) as response:
        assert await response.content.readexactly(300_000) == LAYER.content[:300_000]
        await registry.until_held()
        assert registry.bytes_sent("blob") == 300_000
        registry.release()
        assert await response.read() == LAYER.content[300_000:]


async def test_a_hanging_request_ends_when_its_client_leaves(
    registry: TestRegistry, session: aiohttp.ClientSession
) -> None:
    registry.fail(Fault(action=faults.Hang()))
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(ask(session, url_of(registry)))
        await registry.until_held()
        asked.cancel()
    await registry.until(lambda: registry.count(finished=True) == 1)
    assert (registry.requests[0].status, registry.count(held=True)) == (0, 0)


async def test_a_registry_can_leave_while_it_holds_a_request(session: aiohttp.ClientSession) -> None:
    async with TestRegistry() as registry:
        registry.fail(Fault(action=faults.Hang()))
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(ask_in_vain(session, f"{registry.base_url}/v2/"))
            await registry.until_held()
            await registry.stop()
        await asked
        registry.heal()
        await registry.start()
        assert (await ask(session, f"{registry.base_url}/v2/"))[0] == 200


async def ask_in_vain(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(aiohttp.ClientError):
        await ask(session, url)


async def test_faults_are_taken_in_order_one_of_a_kind_a_request(
    registry: TestRegistry, session: aiohttp.ClientSession
) -> None:
    registry.fail(
        Fault(action=faults.Cut(), kind="blob", times=1),
        Fault(action=faults.Status(status=503, body=b"<html>", headers={"Retry-After": "3"}), kind="blob", times=1),
        Fault(action=faults.FlipByte(position=10), kind="blob", times=1),
    )
    assert (await ask(session, url_of(registry), method="HEAD"))[0] == 503  # a cut would change nothing on HEAD
    with pytest.raises(aiohttp.ClientError):
        await ask(session, url_of(registry))
    assert (await ask(session, url_of(registry)))[2] == LAYER.content


async def test_wrong_bytes_keep_their_place_in_a_range(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.fail(Fault(action=faults.FlipByte(position=10), kind="blob"))
    _, _, whole = await ask(session, url_of(registry))
    _, _, part = await ask(session, url_of(registry), headers={"Range": "bytes=5-14"})
    assert [at for at, byte in enumerate(whole) if byte != LAYER.content[at]] == [10]
    assert part == whole[5:15]


async def test_a_page_instead_of_content(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.fail(Fault(action=faults.Replace(), kind="manifest"))
    status, headers, body = await ask(session, f"{registry.base_url}/v2/{NAME}/manifests/latest")
    assert (status, body, headers["Content-Type"]) == (200, faults.HTML_PAGE, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("action", "status", "changed"),
    [
        (faults.IgnoreRange(), 200, {"Content-Range": None}),
        (faults.WrongContentRange(), 206, {"Content-Range": "bytes 0-0/1"}),
        (faults.WrongContentRange(value=None), 206, {"Content-Range": None}),
        (faults.Chunked(), 206, {"Content-Length": None, "Transfer-Encoding": "chunked"}),
        (faults.NoDigestHeader(), 206, {"Docker-Content-Digest": None}),
        (faults.ContentType(), 206, {"Content-Type": "application/octet-stream; charset=utf-8"}),
    ],
)
async def test_headers_can_be_wrong(
    registry: TestRegistry,
    session: aiohttp.ClientSession,
    action: faults.Action,
    status: int,
    changed: Mapping[str, str | None],
) -> None:
    registry.fail(Fault(action=action))
    answer = await ask(session, url_of(registry), headers={"Range": "bytes=1000-"})
    assert answer[0] == status
    assert {name: answer[1].get(name) for name in changed} == changed
    assert answer[2] == LAYER.content[1000 if status == 206 else 0 :]


async def test_gzip_only_for_those_who_take_it(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.fail(Fault(action=faults.Gzip(), kind="blob"))
    _, headers, body = await ask(session, url_of(registry), headers={"Accept-Encoding": "gzip"})
    assert (headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", LAYER.content)
    _, headers, body = await ask(session, url_of(registry), headers={"Accept-Encoding": "identity"})
    assert ("Content-Encoding" in headers, body) == (False, LAYER.content)


async def test_head_refused_and_get_not(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.fail(Fault(action=faults.RefuseHead(status=405), kind="blob"))
    assert (await ask(session, url_of(registry), method="HEAD"))[0] == 405
    assert (await ask(session, url_of(registry)))[0] == 200


async def test_slowness_takes_its_time(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.fail(Fault(action=faults.Slow(bytes_per_second=5_000_000), kind="blob"))
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    assert (await ask(session, url_of(registry)))[2] == LAYER.content
    assert loop.time() - started_at > 0.09


@pytest.mark.parametrize("relative", [False, True])
async def test_a_signed_link_works_as_it_is_and_only_so(
    registry: TestRegistry, session: aiohttp.ClientSession, *, relative: bool
) -> None:
    registry.fail(Fault(action=faults.Redirect(relative=relative), kind="blob"))
    status, headers, _ = await ask(session, url_of(registry))
    location = headers["Location"]
    origin = registry.base_url if relative else registry.cdn.server.base_url
    assert status == 307
    assert location.startswith("/" if relative else origin)
    target = URL(location if not relative else origin + location, encoded=True)
    assert (await ask(session, target))[2] == LAYER.content
    assert (await ask(session, target, headers={"Range": "bytes=499990-"}))[2] == LAYER.content[-10:]
    assert (await ask(session, target, method="HEAD"))[0] == 403
    assert (await ask(session, str(target)))[0] == 403  # quoted anew
    registry.cdn.clock.advance(301)
    assert (await ask(session, target))[0] == 403
    assert registry.bytes_sent("blob") > len(LAYER.content)
    assert (registry.count(kind="blob"), registry.count(kind="cdn")) == (1, 5)


async def test_the_cdn_takes_no_credentials(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.fail(Fault(action=faults.Redirect(), kind="blob"))
    location = (await ask(session, url_of(registry)))[1]["Location"]
    assert (await ask(session, URL(location, encoded=True), headers=basic("a", "b")))[0] == 400


async def test_a_limit_counts_manifests_that_are_got(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    registry.limit = RateLimit(limit=100, remaining=1, retry_after_seconds=7)
    url = f"{registry.base_url}/v2/{NAME}/manifests/latest"
    answers = [await ask(session, url, method=method) for method in ("HEAD", "GET", "HEAD", "GET")]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429]
    assert [headers["RateLimit-Remaining"] for _, headers, _ in answers] == [f"{left};w=21600" for left in (1, 0, 0, 0)]
    assert answers[3][1]["Retry-After"] == "7"
    assert json.loads(answers[3][2])["errors"][0]["code"] == "TOOMANYREQUESTS"


async def test_basic_wants_the_password_for_everything(session: aiohttp.ClientSession) -> None:
    access = Access(users={"ada": "right", "bob": "right"}, private={NAME: {"ada"}})
    async with TestRegistry(gate=BasicGate(access)) as registry:
        registry.add(NAME, "latest", docker_image())
        manifest = f"{registry.base_url}/v2/{NAME}/manifests/latest"
        status, headers, _ = await ask(session, f"{registry.base_url}/v2/")
        assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="test registry"')
        credentials = [basic("ada", "wrong"), basic("bob", "right"), basic("ada", "right")]
        assert [(await ask(session, manifest, headers=each))[0] for each in credentials] == [401, 403, 200]


class Tokens:
    """A registry behind a token service, and the requests of a client that knows its way."""

    def __init__(self, registry: TestRegistry, service: TokenService, session: aiohttp.ClientSession) -> None:
        self.registry = registry
        self.service = service
        self._session = session

    async def get(self, headers: Mapping[str, str] | None = None, *, scope: str | None = None) -> Answer:
        asked = scope or f"repository:{NAME}:pull"
        return await ask(self._session, f"{self.service.url}?service=registry.test&scope={asked}", headers=headers)

    async def token(self, headers: Mapping[str, str] | None = None, *, scope: str | None = None) -> str:
        text: str = json.loads((await self.get(headers, scope=scope))[2])["token"]
        return text

    async def pull(self, token: str | None) -> tuple[int, str]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = f"{self.registry.base_url}/v2/{NAME}/manifests/latest"
        status, answered, _ = await ask(self._session, url, headers=headers)
        return status, answered.get("WWW-Authenticate", "")


@pytest.fixture
async def tokens(session: aiohttp.ClientSession) -> AsyncIterator[Tokens]:
    access = Access(users={"ada": "right"}, private={"team/secret": {"ada"}})
    async with TokenService(access) as service, TestRegistry(gate=BearerGate(service)) as registry:
        registry.add(NAME, "latest", docker_image())
        yield Tokens(registry, service, session)


async def test_a_token_opens_what_it_is_for(tokens: Tokens) -> None:
    scope = f"repository:{NAME}:pull"
    challenge = f'Bearer realm="{tokens.service.url}",service="registry.test",scope="{scope}"'
    assert await tokens.pull(None) == (401, challenge)
    assert await tokens.pull("made up") == (401, f'{challenge},error="invalid_token"')
    other = await tokens.token(scope="repository:team/other:pull")
    assert await tokens.pull(other) == (401, f'{challenge},error="insufficient_scope"')
    assert (await tokens.pull(await tokens.token()))[0] == 200
    assert tokens.service.requests[-1].facts == {"scopes": [scope], "user": None, "granted": [scope]}


async def test_a_token_ends(tokens: Tokens) -> None:
    token = await tokens.token()
    tokens.service.clock.advance(299)
    assert (await tokens.pull(token))[0] == 200
    tokens.service.clock.advance(2)
    assert (await tokens.pull(token))[0] == 401
    token = await tokens.token()
    tokens.service.revoke_all()
    assert (await tokens.pull(token))[0] == 401


async def test_who_may_not_gets_a_token_for_less(tokens: Tokens) -> None:
    scope = "repository:team/secret:pull,push"
    await tokens.get(scope=scope)
    await tokens.get(basic("ada", "right"), scope=scope)
    assert [request.facts["granted"] for request in tokens.service.requests] == [[], ["repository:team/secret:pull"]]


async def test_a_wrong_password_gets_none(tokens: Tokens) -> None:
    tokens.service.settings.bad_credential_status = 403
    assert (await tokens.get(basic("ada", "wrong")))[0] == 403
    tokens.service.fail(Fault(action=faults.Status(status=500), kind="token"))
    assert (await tokens.get())[0] == 500


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (TokenSettings(), {"token", "access_token", "expires_in", "issued_at"}),
        (TokenSettings(tells_expires_in=False, fields={"token": "{}"}), {"token"}),
        (TokenSettings(tells_expires_in=False, fields={"token": "{}", "access_token": ""}), {"token", "access_token"}),
    ],
)
async def test_an_answer_has_the_fields_that_are_set(tokens: Tokens, settings: TokenSettings, names: set[str]) -> None:
    tokens.service.settings = replace(settings)
    answer = json.loads((await tokens.get())[2])
    assert set(answer) == names
    assert ("access_token" in answer and not answer["access_token"]) == (settings.fields.get("access_token") == "")


@pytest.mark.parametrize("header", ["x5c", "kid"])
async def test_debian_checks_real_tokens(session: aiohttp.ClientSession, header: Literal["x5c", "kid"]) -> None:
    signer = TokenSigner(header=header)
    image = docker_list()
    access = Access(users={"ada": "right"}, private={NAME: {"ada"}})
    async with TokenService(access, signer=signer) as service:
        auth = TokenAuth(realm=service.url, service=service.settings.service, signer=signer)
        async with DebianRegistry(auth=auth) as registry:
            registry.push(NAME, "latest", image)
            url = f"{registry.base_url}/v2/{NAME}/manifests/latest"
            statuses = [(await ask(session, url))[0]]
            for credential in (None, basic("ada", "right")):
                asked = f"{service.url}?service=registry.test&scope=repository:{NAME}:pull"
                token = json.loads((await ask(session, asked, headers=credential))[2])["token"]
                bearer = {"Authorization": f"Bearer {token}", "Accept": DOCKER_LIST}
                statuses.append((await ask(session, url, headers=bearer))[0])
    assert statuses == [401, 401, 200]


async def test_debian_can_stand_before_our_registry(registry: TestRegistry, session: aiohttp.ClientSession) -> None:
    async with DebianRegistry(upstream=Upstream(url=registry.base_url)) as proxy:
        url = f"{proxy.base_url}/v2/{NAME}/blobs/{LAYER.digest}"
        assert (await ask(session, url))[2] == LAYER.content
    assert registry.count(kind="blob") > 0


async def test_a_process_comes_back_with_port_and_content(session: aiohttp.ClientSession) -> None:
    with RegistryProcess() as registry:
        registry.add(NAME, "latest", docker_image())
        registry.add_blob(NAME, LAYER)
        registry.tag(NAME, "gone", docker_image().digest)
        registry.delete_tag(NAME, "gone")
        before = registry.base_url
        registry.kill()
        with pytest.raises(aiohttp.ClientError):
            await ask(session, url_of(registry))
        registry.start()
        assert registry.base_url == before
        assert (await ask(session, url_of(registry)))[2] == LAYER.content
        assert json.loads((await ask(session, f"{before}/v2/{NAME}/tags/list"))[2])["tags"] == ["latest"]
        assert registry.count() == 2
        assert registry.bytes_sent("blob") == len(LAYER.content)


def test_a_process_without_tokens_says_so() -> None:
    with RegistryProcess() as registry, pytest.raises(ValueError, match="tokens"):
        registry.heal(server="tokens")


async def test_a_process_obeys(session: aiohttp.ClientSession) -> None:
    with RegistryProcess(settings={"auth": "bearer", "tokens": {"expires_in_seconds": 60}}) as registry:
        registry.fail(Fault(action=faults.Hang(), kind="ping", times=1))
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(ask(session, f"{registry.base_url}/v2/"))
            await asyncio.to_thread(registry.until_held)
            await asyncio.to_thread(registry.release)
        status, headers, _ = await asked
        assert status == 401
        assert f"127.0.0.1:{registry.ports['tokens']}/token" in headers["WWW-Authenticate"]
        await ask(session, f"http://127.0.0.1:{registry.ports['tokens']}/token?scope=repository:{NAME}:pull")
        assert [request.facts["scopes"] for request in registry.token_requests] == [[f"repository:{NAME}:pull"]]
        registry.reset_record()
        assert (registry.requests, registry.token_requests) == ([], [])
