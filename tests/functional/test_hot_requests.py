"""Requests that are known again by their bytes: answered sooner, and in no other way."""

from __future__ import annotations

import asyncio
import gc
import http.client
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from mirror.web import hot
from mirror.web.exchange import new_request_id
from mirror.web.server import Handler
from tests.functional.conftest import StartMirror
from tests.support.commands import control
from tests.support.images import docker_image
from tests.support.mirrors import MirrorProcess
from tests.support.passwords import PASSWORD, USER, basic, write_htpasswd
from tests.support.process import RegistryProcess
from tests.support.pulling import MirrorClient
from tests.support.registry import TestRegistry
from tests.support.waiting import wait_until

NAME = "library/app"
IMAGE = docker_image(1)
TAG = f"/v2/{NAME}/manifests/latest"
DIGEST = f"/v2/{NAME}/manifests/{IMAGE.digest}"
BLOB = f"/v2/{NAME}/blobs/{IMAGE.config.digest}"
VARYING = {"x-request-id", "date", "cache-status"}


@dataclass(slots=True)
class Raw:
    """One connection; writes bytes as they are given, reads one answer at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes) -> tuple[bytes, dict[str, str], bytes]:
        self.writer.write(request)
        return await self.read(is_head=request.startswith(b"HEAD"))

    async def read(self, *, is_head: bool = False) -> tuple[bytes, dict[str, str], bytes]:
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        size = 0 if is_head or " 304 " in status else int(headers["content-length"])
        return status.encode(), headers, await self.reader.readexactly(size)


@dataclass(slots=True)
class Handled:
    """What went the whole way."""

    paths: list[str] = field(default_factory=list)


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "latest", IMAGE)
    return registry


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Handled:
    seen = Handled()
    original = Handler.__call__

    async def call(self: Handler, request: web.BaseRequest) -> web.StreamResponse:
        seen.paths.append(request.raw_path)
        return await original(self, request)

    monkeypatch.setattr(Handler, "__call__", call)
    return seen


@asynccontextmanager
async def connected(client: MirrorClient, source: str = "127.0.0.1") -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.mirror.port, local_addr=(source, 0))
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


def request(path: str, method: str = "GET", *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: mirror", *headers, "", ""]).encode()


async def warmed(raw: Raw, *requests: bytes) -> None:
    """Have the content, then let each request be a hit once."""
    for one in (request(TAG), *requests):
        await raw.ask(one)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", [TAG, DIGEST, f"{DIGEST}?ns=docker.io"], ids=["tag", "digest", "ns"])
async def test_a_known_request_gets_the_same_answer(
    client: MirrorClient, handled: Handled, path: str, method: str
) -> None:
    asked = request(path, method)
    async with connected(client) as raw:
        await warmed(raw)
        first_status, first_headers, first_body = await raw.ask(asked)
        handled.paths.clear()
        status, headers, body = await raw.ask(asked)
    assert handled.paths == []
    for one in (first_headers, headers):
        assert one["cache-status"].startswith("mirror; hit; ttl=" if path == TAG else "mirror; hit")
    assert (status, body) == (first_status, first_body)
    assert {name: headers[name] for name in headers.keys() - VARYING} == {
        name: first_headers[name] for name in first_headers.keys() - VARYING
    }
    assert headers.keys() == first_headers.keys()
    assert headers["x-request-id"] != first_headers["x-request-id"]
    assert body == (b"" if method == "HEAD" else IMAGE.manifest)


async def test_a_known_request_for_a_small_blob_gets_the_same_answer(client: MirrorClient, handled: Handled) -> None:
    async with connected(client) as raw:
        await warmed(raw, request(BLOB))
        await client.settled()
        first_status, first_headers, first_body = await raw.ask(request(BLOB))
        handled.paths.clear()
        with capture_logs() as events:
            status, headers, body = await raw.ask(request(BLOB))
            await client.get("/healthz")  # the loop has turned
    assert handled.paths == ["/healthz"]
    assert (status, body) == (first_status, first_body) == (b"HTTP/1.1 200 OK", IMAGE.config.content)
    assert headers["cache-status"] == first_headers["cache-status"] == "mirror; hit"
    assert {name: headers[name] for name in headers.keys() - VARYING} == {
        name: first_headers[name] for name in first_headers.keys() - VARYING
    }
    assert headers.keys() == first_headers.keys()
    (served,) = [event for event in events if event.get("kind") == "blob"]
    assert (served["outcome"], served["bytes_sent"], served["reference"]) == (
        "hit",
        len(body),
        str(IMAGE.config.digest),
    )


@pytest.mark.parametrize(
    ("extra", "status"), [("Range: bytes=0-9", b" 206 "), (f'If-None-Match: "{IMAGE.config.digest}"', b" 304 ")]
)
async def test_a_small_blob_is_answered_in_part_or_not_at_all_where_that_is_asked_for(
    client: MirrorClient, extra: str, status: bytes
) -> None:
    async with connected(client) as raw:
        await warmed(raw, request(BLOB))
        await client.settled()
        for _ in range(3):
            assert (await raw.ask(request(BLOB)))[2] == IMAGE.config.content
            told, _, body = await raw.ask(request(BLOB, "GET", extra))
            assert status in told
            assert body == (IMAGE.config.content[:10] if b"206" in status else b"")


def test_a_small_blob_that_was_removed_is_fetched_again() -> None:
    with RegistryProcess() as registry, MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror:
        registry.add(NAME, "latest", IMAGE)
        mirror.request(TAG)
        mirror.request(DIGEST)
        wait_until(lambda: mirror.request(BLOB).cache_status == "mirror; hit")
        for _ in range(20):
            assert mirror.request(BLOB).body == IMAGE.config.content
        control(mirror, "rm", image=NAME)
        answer = mirror.request(BLOB)
    assert answer.body == IMAGE.config.content
    assert answer.cache_status.endswith("; fwd-status=200; stored")


async def test_it_is_logged_and_counted_like_any_other(client: MirrorClient) -> None:
    def counted() -> list[float | None]:
        value = client.mirror.metrics.get_sample_value
        labels = {"upstream": "docker.io", "kind": "manifest", "outcome": "hit"}
        return [
            value("mirror_requests_total", {**labels, "code": "200"}),
            value("mirror_response_bytes_total", labels),
            value("mirror_time_to_first_byte_seconds_count", labels),
            value("registry_proxy_hits_total", {"type": "manifest"}),
            value("registry_proxy_pushed_bytes_total", {"type": "manifest"}),
        ]

    async with connected(client) as raw:
        await warmed(raw, request(TAG))
        before = counted()
        with capture_logs() as events:
            answers = [await raw.ask(request(TAG)) for _ in range(3)]
            await client.get("/healthz")  # the loop has turned
    size = len(IMAGE.manifest)
    grown = [(after or 0) - (one or 0) for after, one in zip(counted(), before, strict=True)]
    assert grown == [3, 3 * size, 3, 3, 3 * size]
    served = [event for event in events if event.get("kind") == "manifest"]
    assert len(served) == 3
    duration = served[-1].pop("duration_seconds")
    assert 0 <= duration < 1
    assert served[-1] == {
        "event": "request.served",
        "log_level": "info",
        "request_id": answers[-1][1]["x-request-id"],
        "client": "127.0.0.1",
        "method": "GET",
        "upstream": "docker.io",
        "repository": NAME,
        "reference": "latest",
        "kind": "manifest",
        "outcome": "hit",
        "status": 200,
        "bytes_sent": size,
    }


async def test_a_tag_that_has_run_out_is_asked_for_again(registry: TestRegistry, client: MirrorClient) -> None:
    async with connected(client) as raw:
        await warmed(raw, request(TAG))
        client.mirror.clock.advance(30)
        assert (await raw.ask(request(TAG)))[1]["cache-status"] in {"mirror; hit; ttl=30", "mirror; hit; ttl=29"}
        client.mirror.clock.advance(31)
        assert (await raw.ask(request(TAG)))[1]["cache-status"] == "mirror; fwd=stale; fwd-status=200"
    assert registry.count(method="HEAD") == 2


async def test_a_tag_that_has_moved_is_answered_with_what_it_points_at_now(
    registry: TestRegistry, client: MirrorClient
) -> None:
    other = docker_image(2)
    async with connected(client) as raw:
        await warmed(raw, request(TAG))
        registry.add(NAME, "latest", other)
        client.mirror.clock.advance(61)
        for _ in range(3):
            _, headers, body = await raw.ask(request(TAG))
            assert headers["docker-content-digest"] == other.digest
            assert body == other.manifest


async def test_pipelined_requests_are_answered_in_order(client: MirrorClient) -> None:
    async with connected(client) as raw:
        await warmed(raw, request(TAG), request(DIGEST))
        raw.writer.write(request(TAG) + request(DIGEST, "HEAD") + request(DIGEST))
        assert "ttl=" in (await raw.read())[1]["cache-status"]
        assert (await raw.read(is_head=True))[1]["cache-status"] == "mirror; hit"
        assert (await raw.read())[2] == IMAGE.manifest
        assert (await raw.ask(request(TAG)))[2] == IMAGE.manifest


async def test_a_known_request_behind_one_that_is_under_way_waits_for_it(client: MirrorClient) -> None:
    async with connected(client) as raw:
        await warmed(raw, request(DIGEST))
        raw.writer.write(request("/healthz"))
        await raw.writer.drain()
        raw.writer.write(request(DIGEST))
        assert (await raw.read())[2] == b"ok\n"
        assert (await raw.read())[2] == IMAGE.manifest


async def test_a_request_in_pieces_is_one_request(client: MirrorClient) -> None:
    """Its second half is what some other request is known by."""
    async with connected(client) as raw:
        await warmed(raw, request(DIGEST))
        raw.writer.write(b"GET /healthz HTTP/1.1\r\nX-Rest: ")
        await client.get("/healthz")
        assert (await raw.ask(request(DIGEST)))[2] == b"ok\n"


async def test_the_body_of_a_request_is_never_taken_for_a_request(client: MirrorClient) -> None:
    inner = request(DIGEST)
    async with connected(client) as raw:
        await warmed(raw, inner)
        status, _, _ = await raw.ask(request("/healthz", "GET", f"Content-Length: {len(inner)}"))
        raw.writer.write(inner)
        assert status.startswith(b"HTTP/1.1 200")
        _, headers, body = await raw.ask(request("/readyz"))
        assert body == b"ready\n"
        assert "docker-content-digest" not in headers


async def test_what_hangs_on_more_than_the_manifest_goes_the_whole_way(client: MirrorClient, handled: Handled) -> None:
    conditional = request(TAG, "GET", f'If-None-Match: "{IMAGE.digest}"')
    old = request(TAG).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"Host", b"Connection: keep-alive\r\nHost")
    blob = request(f"/v2/{NAME}/blobs/{IMAGE.config.digest}")
    async with connected(client) as raw:
        await warmed(raw, conditional, blob, old)
        handled.paths.clear()
        assert (await raw.ask(conditional))[0] == b"HTTP/1.1 304 Not Modified"
        assert (await raw.ask(blob))[2] == IMAGE.config.content
        assert (await raw.ask(old))[1]["connection"] == "keep-alive"
    assert len(handled.paths) == 3


async def test_a_client_that_wants_to_close_is_closed(client: MirrorClient) -> None:
    for _ in range(3):
        async with connected(client) as raw:
            await raw.ask(request(TAG, "GET", "Connection: close"))
            assert await raw.reader.read() == b""


async def test_a_client_that_reads_nothing_is_not_written_to_without_end(
    client: MirrorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0

    def count() -> str:
        nonlocal writes
        writes += 1
        return new_request_id()

    monkeypatch.setattr(hot, "new_request_id", count)
    asked = request(DIGEST)
    async with connected(client) as raw:
        await warmed(raw, asked)
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]  # noqa: SLF001 - a client that does not read
        for _ in range(20_000):
            raw.writer.write(asked)
            await asyncio.sleep(0)
    assert writes < 15_000


async def test_what_is_remembered_is_bounded(
    client: MirrorClient, handled: Handled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "_MOST_REQUESTS", 2)
    requests = [request(DIGEST, "GET", f"X-Number: {number}") for number in range(4)]
    async with connected(client) as raw:
        await warmed(raw, *requests)
        handled.paths.clear()
        for one in (requests[2], requests[3]):
            await raw.ask(one)
        assert handled.paths == []
        await raw.ask(requests[0])
        assert handled.paths == [DIGEST]


async def test_a_manifest_that_memory_has_dropped_goes_the_whole_way(
    registry: TestRegistry, start_mirror: StartMirror, handled: Handled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.app._HOT_MANIFEST_BYTES", len(IMAGE.manifest) + 10)
    other = docker_image(2)
    registry.add(NAME, "other", other)
    client = await start_mirror(registry.base_url)
    async with connected(client) as raw:
        await warmed(raw, request(DIGEST))
        await raw.ask(request(f"/v2/{NAME}/manifests/{other.digest}"))
        handled.paths.clear()
        assert (await raw.ask(request(DIGEST)))[2] == IMAGE.manifest
    assert handled.paths == [DIGEST]


def test_its_line_of_json_is_like_any_other() -> None:
    with RegistryProcess() as registry, MirrorProcess({"docker.io": registry.base_url}) as mirror:
        registry.add(NAME, "latest", IMAGE)
        connection = http.client.HTTPConnection("127.0.0.1", mirror.port, timeout=10)
        for _ in range(4):
            connection.request("GET", TAG)
            assert connection.getresponse().read() == IMAGE.manifest
        connection.close()
        mirror.stop()
        _, second, _, fourth = (event for event in mirror.events() if event["event"] == "request.served")
    varying = {"request_id", "duration_seconds", "timestamp"}
    assert {name: second[name] for name in second.keys() - varying} == {
        name: fourth[name] for name in fourth.keys() - varying
    }
    assert {type(fourth[name]) for name in varying} == {str, float}
    assert second.keys() == fourth.keys()


# --- where clients need a password


@pytest.fixture
async def guarded(registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path) -> MirrorClient:
    path = write_htpasswd(tmp_path / "htpasswd", {USER: PASSWORD})
    flags = {"access.htpasswd": str(path), "access.anonymous_networks": ["127.0.0.2"]}
    return await start_mirror(registry.base_url, overrides=flags)


def with_password(path: str, password: str = PASSWORD) -> bytes:
    return request(path, "GET", f"Authorization: {basic(USER, password)['Authorization']}")


async def test_a_known_request_with_a_password_is_answered_at_once_for_a_minute(
    guarded: MirrorClient, handled: Handled
) -> None:
    asked = with_password(DIGEST)
    async with connected(guarded) as raw:
        await warmed(raw, with_password(TAG), asked)
        handled.paths.clear()
        with capture_logs() as events:
            assert (await raw.ask(asked))[2] == IMAGE.manifest
            await guarded.get("/healthz")  # the loop has turned
        assert handled.paths == ["/healthz"]
        assert next(event["user"] for event in events if event["kind"] == "manifest") == USER
        guarded.mirror.clock.advance(61)
        handled.paths.clear()
        for _ in range(2):
            assert (await raw.ask(asked))[2] == IMAGE.manifest
    assert handled.paths == [DIGEST]


async def test_a_known_request_without_its_password_is_none(guarded: MirrorClient) -> None:
    async with connected(guarded) as raw:
        await warmed(raw, with_password(TAG), with_password(DIGEST), with_password(DIGEST))
        for other in (request(DIGEST), with_password(DIGEST, "another")):
            for _ in range(2):
                assert (await raw.ask(other))[0].startswith(b"HTTP/1.1 401 ")


async def test_a_request_that_needed_no_password_needs_one_from_elsewhere(guarded: MirrorClient) -> None:
    async with connected(guarded, "127.0.0.2") as within, connected(guarded) as outside:
        for asked in (request(DIGEST), with_password(DIGEST, "another")):
            for _ in range(3):
                assert (await within.ask(asked))[2] == IMAGE.manifest
                assert (await outside.ask(asked))[0].startswith(b"HTTP/1.1 401 ")


async def test_a_password_that_no_longer_counts_opens_no_known_request(guarded: MirrorClient, tmp_path: Path) -> None:
    asked = with_password(DIGEST)
    async with connected(guarded) as raw:
        await warmed(raw, with_password(TAG), asked, asked)
        write_htpasswd(tmp_path / "htpasswd", {USER: "changed"})
        async with asyncio.timeout(20):
            while (await raw.ask(asked))[0].startswith(b"HTTP/1.1 200 "):  # noqa: ASYNC110 - it is the answer that tells
                await asyncio.sleep(0.01)
        assert (await raw.ask(asked))[0].startswith(b"HTTP/1.1 401 ")
        assert (await raw.ask(with_password(DIGEST, "changed")))[2] == IMAGE.manifest


async def test_no_password_is_kept_with_what_is_known(guarded: MirrorClient) -> None:
    async with connected(guarded) as raw:
        await warmed(raw, with_password(TAG), with_password(DIGEST))
    kept = [value for value in gc.get_objects() if isinstance(value, hot.HotRequests) and len(value)]
    assert kept
    assert b"Authorization" not in b"".join(key for one in kept for key in one._known)  # noqa: SLF001 - what it keeps
