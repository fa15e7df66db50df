"""How many connections, or requests through a proxy, one address may have at a time."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from tests.functional.conftest import StartMirror
from tests.support.faults import Fault, Hang
from tests.support.images import docker_image
from tests.support.mirrors import MirrorProcess
from tests.support.pulling import ACCEPT, MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
IMAGE = docker_image(1)
MANIFEST = f"/v2/{NAME}/manifests/{IMAGE.digest}"
LIMIT = 3
LIMITED = {"server.max_connections_per_address": LIMIT, "server.header_timeout": "1m"}


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "latest", IMAGE)
    return registry


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]


@dataclass(slots=True)
class Connected:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, path: str) -> Answer:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(first.split()[1]), headers)

    async def is_closed(self) -> bool:
        async with asyncio.timeout(20):
            return await self.reader.read(1) == b""


@asynccontextmanager
async def connections(client: MirrorClient, number: int, source: str = "127.0.0.1") -> AsyncIterator[list[Connected]]:
    opened = []
    try:
        for _ in range(number):
            opened.append(
                Connected(*await asyncio.open_connection("127.0.0.1", client.mirror.port, local_addr=(source, 0)))
            )
            assert (await opened[-1].ask("/healthz")).status == 200  # it has been accepted
        yield opened
    finally:
        for one in opened:
            one.writer.close()


async def test_one_connection_too_many_is_told_so_and_closed(registry: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(registry.base_url, overrides=LIMITED)
    async with connections(client, LIMIT) as within:
        for one in within:
            assert (await one.ask(MANIFEST)).status == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", client.mirror.port)
        with capture_logs() as events:
            refused = Connected(reader, writer)
            answer = await refused.ask(MANIFEST)
            assert await refused.is_closed()
        assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (429, "1", "close")
        assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
        (served,) = [event for event in events if event["event"] == "request.served"]
        assert (served["status"], served["client"]) == (429, "127.0.0.1")
        assert served["error"] == "more than 3 connections or requests from this address at a time"
        writer.close()
        for one in within:  # which nobody has disturbed
            assert (await one.ask(MANIFEST)).status == 200
        async with connections(client, LIMIT, source="127.0.0.2") as others:
            for one in others:
                assert (await one.ask(MANIFEST)).status == 200
    value = client.mirror.metrics.get_sample_value
    labels = {"upstream": "none", "kind": "other", "outcome": "none", "code": "429"}
    assert value("mirror_requests_total", labels) == 1


async def test_when_one_has_gone_another_may_come(registry: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(registry.base_url, overrides=LIMITED)
    for _ in range(10):
        async with connections(client, LIMIT) as within:
            assert (await within[-1].ask(MANIFEST)).status == 200
    async with connections(client, LIMIT) as within:
        late = Connected(*await asyncio.open_connection("127.0.0.1", client.mirror.port))
        within[0].writer.close()
        await within[0].writer.wait_closed()
        async with connections(client, 1, source="127.0.0.2"):  # the mirror has noticed
            assert (await late.ask(MANIFEST)).status == 200
            assert (await late.ask(MANIFEST)).status == 200
        late.writer.close()


async def test_a_health_check_is_answered_whatever_its_address_has_open(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    client = await start_mirror(registry.base_url, overrides=LIMITED)
    async with connections(client, LIMIT):
        for path in ("/healthz", "/readyz"):
            one = Connected(*await asyncio.open_connection("127.0.0.1", client.mirror.port))
            answer = await one.ask(path)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await one.is_closed()
            one.writer.close()


async def test_what_is_too_many_and_asks_for_nothing_is_closed_soon(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    client = await start_mirror(registry.base_url, overrides=LIMITED)
    async with connections(client, LIMIT) as within:
        idle = [Connected(*await asyncio.open_connection("127.0.0.1", client.mirror.port)) for _ in range(5)]
        for one in idle[:2]:
            one.writer.write(b"GET /v2/ HT")
        for one in idle:  # long before the minute that a request may take
            assert await one.is_closed()
            one.writer.close()
        assert (await within[0].ask(MANIFEST)).status == 200


async def test_behind_a_proxy_requests_count_and_connections_do_not(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    proxies = {"access.trusted_proxies": ["127.0.0.0/8"], "upstreams.docker.io.read_timeout": "30s"}
    client = await start_mirror(registry.base_url, overrides={**LIMITED, **proxies})
    registry.fail(Fault(action=Hang(), kind="manifest"))

    def ask(address: str, path: str = MANIFEST) -> asyncio.Task[int]:
        async def asked() -> int:
            headers = {**ACCEPT, "X-Forwarded-For": address}
            return (await client.ask(path, headers=headers)).status

        return asyncio.get_running_loop().create_task(asked())

    held = [ask("192.0.2.1") for _ in range(LIMIT)]
    await registry.until_held()
    async with asyncio.timeout(20):
        while (await ask("192.0.2.1")) != 429:  # noqa: ASYNC110 - until all of them have arrived
            await asyncio.sleep(0)
    assert await ask("192.0.2.1", "/healthz") == 200
    assert await ask("192.0.2.2", "/v2/") == 200
    assert (await client.get("/v2/")).status == 200
    registry.heal()
    assert await asyncio.gather(*held) == [200] * LIMIT
    assert await ask("192.0.2.1") == 200


def test_the_system_s_limit_of_open_files_is_what_it_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    try:
        with MirrorProcess({"docker.io": "http://127.0.0.1:9"}) as mirror:
            assert resource.prlimit(mirror.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
