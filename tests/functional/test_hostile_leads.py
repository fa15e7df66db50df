"""Where an upstream leads: a public one not into the inside, none to another scheme, nobody for ever.

The mirror under test takes 127.0.0.2 for a public address, so that both sides of the rule are here.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from structlog.testing import capture_logs
from yarl import URL

from mirror.config import load
from mirror.errors import UpstreamInvalid
from mirror.upstream.addresses import is_public
from mirror.upstream.sessions import Sessions
from tests.functional.conftest import StartMirror
from tests.support.images import DOCKER_MANIFEST, docker_image
from tests.support.pulling import Answer
from tests.support.raw import RawRequest, RawServer, respond

NAME = "library/app"
IMAGE = docker_image(1)
PUBLIC, INSIDE = "127.0.0.2", "127.0.0.1"
MANIFEST = [("Content-Type", DOCKER_MANIFEST), ("Docker-Content-Digest", IMAGE.digest)]
PATHS = {
    "manifest": f"/v2/{NAME}/manifests/{IMAGE.digest}",
    "blob": f"/v2/{NAME}/blobs/{IMAGE.config.digest}",
    "tags": f"/v2/{NAME}/tags/list",
}
everywhere = pytest.mark.parametrize("what", PATHS)


def serve_image(request: RawRequest) -> bytes:
    body = {"manifests": IMAGE.manifest, "blobs": IMAGE.config.content, "tags": b'{"tags":[]}'}[request.kind]
    return respond(body, headers=MANIFEST)


@pytest.fixture
async def victim() -> AsyncIterator[RawServer]:
    """A service of the inside, which nobody outside should reach through the mirror."""
    async with RawServer(serve_image, address=INSIDE) as server:
        yield server


def redirecting(location: str) -> RawServer:
    return RawServer(lambda _: respond(status=307, headers=[("Location", location)]), address=PUBLIC)


def assert_refused(answer: Answer, *words: str) -> None:
    assert (answer.status, answer.code) == (502, "UNAVAILABLE")
    message = answer.json["errors"][0]["message"]
    for word in words:
        assert word in message


@everywhere
@pytest.mark.parametrize("host", [INSIDE, "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"])  # noqa: S104 - asked, not served
async def test_a_public_upstream_does_not_lead_to_the_inside(
    start_mirror: StartMirror, victim: RawServer, what: str, host: str
) -> None:
    async with redirecting(f"http://{host}:{victim.port}/v2/{NAME}/manifests/latest") as upstream:
        client = await start_mirror(upstream.base_url, public=PUBLIC)
        answer = await client.get(PATHS[what])
    assert_refused(answer, "no public address", "redirect_networks")
    assert (victim.connections, victim.requests) == (0, [])


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "10.0.0.1", "[::1]", "192.168.0.1", "[fd00:ec2::254]"]
)
async def test_not_to_a_link_local_or_private_address_either(start_mirror: StartMirror, host: str) -> None:
    async with redirecting(f"http://{host}/latest/meta-data/") as upstream:
        client = await start_mirror(upstream.base_url, public=PUBLIC)
        assert_refused(await client.get(PATHS["blob"]), "no public address")


async def test_not_by_a_second_step_either(start_mirror: StartMirror, victim: RawServer) -> None:
    async with (
        redirecting(f"http://localhost:{victim.port}/") as second,
        redirecting(f"{second.base_url}/") as upstream,
    ):
        client = await start_mirror(upstream.base_url, public=PUBLIC)
        assert_refused(await client.get(PATHS["blob"]), "no public address")
        assert second.requests
    assert victim.connections == 0


@everywhere
async def test_an_upstream_inside_may_lead_inside(start_mirror: StartMirror, victim: RawServer, what: str) -> None:
    """A company's registry, and its object store."""
    async with RawServer(
        lambda request: respond(status=307, headers=[("Location", victim.base_url + request.target)])
    ) as upstream:
        client = await start_mirror(upstream.base_url, public=PUBLIC)
        assert (await client.get(PATHS[what])).status == 200
    assert victim.requests


async def test_a_public_upstream_may_lead_to_public_addresses(start_mirror: StartMirror) -> None:
    async with (
        RawServer(serve_image, address=PUBLIC) as cdn,
        RawServer(
            lambda request: respond(status=307, headers=[("Location", cdn.base_url + request.target)]), address=PUBLIC
        ) as upstream,
    ):
        client = await start_mirror(upstream.base_url, public=PUBLIC)
        assert (await client.get(PATHS["blob"])).body == IMAGE.config.content
        assert "authorization" not in cdn.requests[0].headers


async def test_the_operator_may_allow_a_network(start_mirror: StartMirror, victim: RawServer) -> None:
    async with RawServer(
        lambda request: respond(status=307, headers=[("Location", victim.base_url + request.target)]), address=PUBLIC
    ) as upstream:
        overrides = {"upstreams.docker.io.redirect_networks": ["127.0.0.1/32"]}
        client = await start_mirror(upstream.base_url, public=PUBLIC, overrides=overrides)
        assert (await client.get(PATHS["blob"])).body == IMAGE.config.content


# Token services are the upstream's word too


@pytest.mark.parametrize("host", [INSIDE, "localhost"])
async def test_a_public_upstreams_realm_does_not_lead_to_the_inside(
    start_mirror: StartMirror, victim: RawServer, host: str
) -> None:
    challenge = f'Bearer realm="http://{host}:{victim.port}/token",service="x"'
    async with RawServer(
        lambda _: respond(status=401, headers=[("WWW-Authenticate", challenge)]), address=PUBLIC
    ) as upstream:
        client = await start_mirror(upstream.base_url, public=PUBLIC)
        assert_refused(await client.get(PATHS["blob"]), "no public address")
    assert victim.connections == 0


async def test_token_hosts_may_be_inside(start_mirror: StartMirror) -> None:
    """The operator has named them."""
    async with RawServer(lambda _: respond(b'{"token":"abc"}'), address=INSIDE) as tokens:

        def answer(request: RawRequest) -> bytes:
            if request.headers.get("authorization") == "Bearer abc":
                return serve_image(request)
            realm = f"http://localhost:{tokens.port}/token"
            return respond(status=401, headers=[("WWW-Authenticate", f'Bearer realm="{realm}"')])

        async with RawServer(answer, address=PUBLIC) as upstream:
            overrides = {"upstreams.docker.io.token_hosts": ["localhost"]}
            client = await start_mirror(upstream.base_url, public=PUBLIC, overrides=overrides)
            assert (await client.get(PATHS["blob"])).body == IMAGE.config.content


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://x/", "//x/token", "", "http://"])
async def test_a_realm_that_is_no_http_is_not_asked(start_mirror: StartMirror, realm: str) -> None:
    challenge = f'Bearer realm="{realm}",service="x"'
    async with RawServer(lambda _: respond(status=401, headers=[("WWW-Authenticate", challenge)])) as upstream:
        client = await start_mirror(upstream.base_url)
        answer = await client.get(PATHS["blob"])
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize("realm", ["http://127..0.1/token", f"http://{'a' * 70}.test/token", "http://a:99999/token"])
async def test_a_realm_whose_host_cannot_be_is_an_error(start_mirror: StartMirror, realm: str) -> None:
    challenge = f'Bearer realm="{realm}",service="x"'
    async with RawServer(lambda _: respond(status=401, headers=[("WWW-Authenticate", challenge)])) as upstream:
        client = await start_mirror(upstream.base_url)
        with capture_logs() as events:
            for _ in range(2):
                assert (await client.get(PATHS["blob"])).status in {404, 502, 504}
    assert not [event for event in events if event["event"] in {"task.failed", "request.failed"}]


async def test_a_realm_elsewhere_gets_no_credential(start_mirror: StartMirror) -> None:
    async with RawServer(lambda _: respond(b'{"token":"abc"}'), address="127.0.0.3") as elsewhere:

        def answer(request: RawRequest) -> bytes:
            if request.headers.get("authorization") == "Bearer abc":
                return serve_image(request)
            realm = f'Bearer realm="{elsewhere.base_url}/token",service="x"'
            return respond(status=401, headers=[("WWW-Authenticate", realm)])

        async with RawServer(answer) as upstream:
            overrides = {"upstreams.docker.io.username": "user", "upstreams.docker.io.password_env": "SECRET"}
            client = await start_mirror(upstream.base_url, overrides=overrides, environ={"SECRET": "s3cret"})
            assert (await client.get(PATHS["blob"])).body == IMAGE.config.content
        assert elsewhere.requests
        for request in (*elsewhere.requests, *upstream.requests):
            assert not request.headers.get("authorization", "").startswith("Basic")
            assert "user" not in request.target


# Names that change their meaning


class Rebinding(AbstractResolver):
    """Knows one name, at one address after the other."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = itertools.chain(addresses, itertools.repeat(addresses[-1]))

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        assert family in {socket.AF_INET, socket.AF_UNSPEC}
        address = next(self._addresses)
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def sessions(endpoint: str, resolver: AbstractResolver) -> Sessions:
    config = load(path=None, environ={}, overrides={"upstreams.docker.io.endpoints": [endpoint]})
    return Sessions(
        config.default_upstream,
        is_public=lambda address: is_public(address) or address == PUBLIC,
        make_resolver=lambda: resolver,
    )


async def test_a_name_that_turns_inward_is_refused_when_it_is_connected_to(victim: RawServer) -> None:
    async with RawServer(lambda _: respond(b"outside"), address=PUBLIC) as outside:
        url = URL(f"http://rebinding.test:{outside.port}/")
        inward = URL(f"http://rebinding.test:{victim.port}/")
        upstream = URL(f"http://{PUBLIC}:{outside.port}")
        async with sessions(str(upstream), Rebinding(PUBLIC, INSIDE)) as ours:
            async with await ours.request("GET", url, named_by=upstream) as response:
                assert await response.read() == b"outside"
            with pytest.raises(UpstreamInvalid, match="no public address"):
                await ours.request("GET", inward, named_by=upstream)
    assert victim.connections == 0


async def test_an_upstream_that_was_public_once_does_not_become_inside(victim: RawServer) -> None:
    """The owner of its name could say so for a moment, and lead inside by a connection that is still open."""
    async with RawServer(lambda _: respond(b"outside"), address=PUBLIC) as outside:
        upstream = URL(f"http://rebinding.test:{outside.port}")
        async with sessions(str(upstream), Rebinding(PUBLIC, INSIDE)) as ours:
            async with await ours.request("GET", upstream, named_by=upstream) as response:
                assert await response.read() == b"outside"
            with pytest.raises(aiohttp.ClientConnectorError):  # nobody listens there
                await ours.current.get(f"http://rebinding.test:{outside.port + 1}")
            with pytest.raises(UpstreamInvalid, match="no public address"):
                await ours.request("GET", URL(victim.base_url), named_by=upstream)
    assert victim.connections == 0


# Other schemes, and no end


@everywhere
@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
        "data:text/plain,x",
        "javascript:x",
        "http://[::1/x",
        "http://127.0.0.1:99999/x",
        "http://user:password@127.0.0.1/x",
        "/a HTTP/1.1 b",
        "/a\tb",
        "/\u00e4",
    ],
)
async def test_a_redirect_to_another_scheme_is_not_followed(
    start_mirror: StartMirror, what: str, location: str
) -> None:
    async with RawServer(lambda _: respond(status=302, headers=[("Location", location)])) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(await client.get(PATHS[what]), "redirects to")


@everywhere
async def test_an_endless_redirect_ends(start_mirror: StartMirror, what: str) -> None:
    steps = itertools.count()
    async with RawServer(
        lambda _: respond(status=307, headers=[("Location", f"/v2/{NAME}/{next(steps)}")])
    ) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(await client.get(PATHS[what]), "redirects more than 10 times")
        assert len(upstream.requests) == 10


async def test_an_endless_redirect_between_two_hosts_ends(start_mirror: StartMirror) -> None:
    ports: list[int] = []

    def answer(request: RawRequest) -> bytes:
        port = ports[0] if request.headers["host"].endswith(str(ports[1])) else ports[1]
        return respond(status=302, headers=[("Location", f"http://127.0.0.1:{port}/")])

    async with RawServer(answer) as one, RawServer(answer) as other:
        ports += [one.port, other.port]
        client = await start_mirror(one.base_url)
        assert_refused(await client.get(PATHS["blob"]), "redirects more than 10 times")
        assert len(one.requests) + len(other.requests) == 10


async def test_the_search_is_not_redirected(start_mirror: StartMirror, victim: RawServer) -> None:
    async with redirecting(f"{victim.base_url}/") as upstream:
        client = await start_mirror(upstream.base_url, public=PUBLIC)
        answer = await client.get("/v1/search?q=x")
    assert (answer.status, victim.connections) == (502, 0)
    assert json.loads(answer.body)["errors"]
