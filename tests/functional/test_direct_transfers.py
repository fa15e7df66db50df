"""Large blobs, received past aiohttp: whole, broken, silent, encrypted, given up, and next to each other."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from mirror.cli.authority import Authority, Made
from mirror.engine.intake import receiving
from mirror.errors import StorageError
from mirror.telemetry.metrics import Metrics
from mirror.upstream.blob_stream import HttpBlobStream
from tests.functional.conftest import StartMirror
from tests.support.faults import Cut, Fault, Reset, Silence, Slow
from tests.support.images import blob
from tests.support.mirrors import settings
from tests.support.pulling import MirrorClient, mirror_client
from tests.support.reading import reading
from tests.support.registry import TestRegistry

NAME = "library/app"
LAYER = blob(5_000_000, 7)
PATH = f"/v2/{NAME}/blobs/{LAYER.digest}"
QUICKLY = {"upstreams.docker.io.read_timeout": "1s"}


@pytest.fixture(autouse=True)
def _past_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take blobs of a megabyte for large, and let none come in the ordinary way."""

    async def refuse(_: aiohttp.StreamReader) -> NoReturn:
        raise AssertionError("read through aiohttp")

    monkeypatch.setattr("mirror.upstream.blob_stream._LARGE_BYTES", 1_000_000)
    monkeypatch.setattr(aiohttp.StreamReader, "readchunk", refuse)


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add_blob(NAME, LAYER)
    return registry


def upstream_bytes(client: MirrorClient) -> float | None:
    labels = {"upstream": "docker.io", "kind": "blob"}
    return client.mirror.metrics.get_sample_value("mirror_upstream_bytes_total", labels)


async def test_every_byte_comes_once_and_is_counted_once(registry: TestRegistry, client: MirrorClient) -> None:
    answers = await asyncio.gather(*(client.get(PATH) for _ in range(3)))
    assert all(answer.body == LAYER.content for answer in answers)
    assert registry.bytes_sent("blob") == upstream_bytes(client) == LAYER.size_bytes
    assert (await client.get(PATH)).cache_status == "mirror; hit"


@pytest.mark.parametrize("ending", [Cut(), Reset(), Silence()], ids=["cut", "reset", "silence"])
async def test_a_transfer_that_breaks_goes_on_where_it_stopped(
    registry: TestRegistry, start_mirror: StartMirror, ending: Cut | Reset | Silence
) -> None:
    client = await start_mirror(registry.base_url, overrides=QUICKLY)
    registry.fail(Fault(action=ending, times=1))
    assert (await client.get(PATH)).body == LAYER.content
    assert upstream_bytes(client) == LAYER.size_bytes
    ranges = [request.headers.get("Range") for request in registry.requests if request.kind == "blob"]
    assert len(ranges) == 2


async def test_a_transfer_that_pauses_for_less_than_the_read_timeout_is_not_broken(
    registry: TestRegistry, start_mirror: StartMirror
) -> None:
    client = await start_mirror(registry.base_url, overrides=QUICKLY)
    registry.fail(Fault(action=Slow(between_chunks_seconds=0.3, chunk_bytes=1_000_000), kind="blob"))
    assert (await client.get(PATH)).body == LAYER.content
    assert registry.count(kind="blob") == 1


async def test_the_first_bytes_do_not_wait_for_the_last(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Silence(), kind="blob"))
    async with reading(client.mirror.base_url, PATH) as answer:
        await answer.take(1)
        assert registry.count(kind="blob", finished=True) == 0
        registry.release()
        assert await answer.take_all()
        assert bytes(answer.body) == LAYER.content


async def test_a_mirror_that_stops_in_the_middle_leaves_no_connection_behind(
    registry: TestRegistry, tmp_path: Path
) -> None:
    registry.fail(Fault(action=Silence(), kind="blob"))
    flags = settings({"docker.io": registry.base_url}) | {"server.shutdown_grace": "0s"}
    async with (
        mirror_client(tmp_path / "cache", flags) as client,
        reading(client.mirror.base_url, PATH) as answer,
        asyncio.timeout(10),
    ):
        await answer.take(1)
    registry.heal()
    async with mirror_client(tmp_path / "cache", flags) as client:  # and what had come is gone on with
        assert (await client.get(PATH)).body == LAYER.content
    assert registry.bytes_sent("blob") < 1.6 * LAYER.size_bytes


@pytest.mark.parametrize("error", [ConnectionResetError("the client has left"), StorageError("the disk is full")])
async def test_what_ends_the_taking_ends_the_transfer_and_comes_out_as_it_is(
    registry: TestRegistry, error: Exception
) -> None:
    async with aiohttp.ClientSession() as session, session.get(registry.base_url + PATH) as response:
        observer = Metrics(CollectorRegistry())
        stream = HttpBlobStream(response, 0, LAYER.size_bytes, "docker.io", observer, silence_seconds=2.0)

        async def take() -> None:
            async with receiving(stream) as intake:
                assert await intake.take()
                raise error

        with pytest.raises(type(error)):
            await take()


# Encrypted


@asynccontextmanager
async def https_before(registry: TestRegistry, made: Made) -> AsyncIterator[str]:
    """Speak TLS before a registry."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", registry.server.port)
        await asyncio.gather(pump(reader, behind_writer), pump(behind_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("ending", [None, Cut()], ids=["whole", "cut"])
async def test_it_is_the_same_through_tls(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path, ending: Cut | None
) -> None:
    made = Authority(tmp_path / "certs").issue((ip_address("127.0.0.1"),), now=datetime.now(UTC))
    if ending is not None:
        registry.fail(Fault(action=ending, times=1))
    async with https_before(registry, made) as url:
        client = await start_mirror(url, overrides={"upstreams.docker.io.ca_file": str(made.authority)})
        assert (await client.get(PATH)).body == LAYER.content
    assert upstream_bytes(client) == LAYER.size_bytes
