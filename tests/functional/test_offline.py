"""``cache.offline``: what is stored is served, whatever its age, and no connection is opened to anybody else."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from mirror.cli.main import main
from mirror.telemetry import logs
from tests.functional.conftest import StartMirror
from tests.support.faults import Fault, Silence
from tests.support.habits import DockerHub
from tests.support.images import oci_image
from tests.support.pulling import MirrorClient, mirror_client

YEARS_SECONDS = 5 * 365 * 86400.0
PUBLIC, PRIVATE = DockerHub.public, DockerHub.private
HALF, HALF_BYTES = oci_image(920, layers=1, layer_bytes=400_000), 150_000
UNKNOWN = {
    "/v2/library/alpine/manifests/edge": "MANIFEST_UNKNOWN",
    f"/v2/library/other/manifests/{PUBLIC.image.digest}": "MANIFEST_UNKNOWN",
    f"/v2/library/other/blobs/{PRIVATE.image.config.digest}": "BLOB_UNKNOWN",
    f"/v2/library/half/blobs/{HALF.layers[0].digest}": "BLOB_UNKNOWN",
    "/v2/ghcr.io/owner/app/manifests/1": "MANIFEST_UNKNOWN",
    "/v2/library/other/tags/list": "NAME_UNKNOWN",
    f"/v2/library/alpine/referrers/{PUBLIC.image.digest}": "NAME_UNKNOWN",
    "/v1/search?q=alpine": "NAME_UNKNOWN",
}


class Listener:
    """Counts connections to the address where upstreams are said to answer."""

    def __init__(self) -> None:
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _connected(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Listener]:
    async with Listener() as listener:
        yield listener


@pytest.fixture
async def client(upstream: Listener, start_mirror: StartMirror, tmp_path: Path) -> MirrorClient:
    """A mirror that has pulled a public and a private image and half of a third, and is offline now, years later."""
    keys = await _fill(tmp_path / "cache", tmp_path / "secret")
    flags = {
        **keys,
        "upstreams.docker.io.endpoints": [upstream.url],
        "upstreams.docker.io.search_endpoint": upstream.url,
    }
    client = await start_mirror(overrides=flags, offline=True)
    client.mirror.clock.advance(YEARS_SECONDS)
    return client


def is_half_there(folder: Path) -> bool:
    return any(path.stat().st_size > HALF_BYTES for path in (folder / "partial").iterdir())


async def _fill(folder: Path, secret: Path) -> dict[str, object]:
    async with DockerHub() as hub:
        secret.write_text(hub.access.users["ada"], encoding="utf-8")
        keys: dict[str, object] = {
            "upstreams.docker.io.username": "ada",
            "upstreams.docker.io.password_file": str(secret),
        }
        hub.registry.add("library/half", "1", HALF)
        async with mirror_client(folder, {**hub.settings(), **keys}) as online:
            for sample in (PUBLIC, PRIVATE):
                answers = await online.pull(sample.repository, sample.tag, sample.image)
                assert {answer.status for answer in answers.values()} == {200}
            assert (await online.get("/v2/library/half/manifests/1")).status == 200
            hub.registry.fail(Fault(action=Silence(fraction=0.5), kind="cdn"))
            async with asyncio.TaskGroup() as group, asyncio.timeout(10):
                asking = group.create_task(online.get(f"/v2/library/half/blobs/{HALF.layers[0].digest}"))
                while not is_half_there(folder):  # noqa: ASYNC110 - it is all there is to see
                    await asyncio.sleep(0.01)
                asking.cancel()
    return keys


async def test_what_is_stored_is_a_hit_after_years(client: MirrorClient, upstream: Listener) -> None:
    for sample in (PUBLIC, PRIVATE):
        answers = await client.pull(sample.repository, sample.tag, sample.image)
        assert {answer.status for answer in answers.values()} == {200}
        assert {answer.cache_status for answer in answers.values()} == {"mirror; hit"}
        assert all("Warning" not in answer.headers for answer in answers.values())
        for blob in sample.image.blobs:
            assert answers[blob.digest].body == blob.content
    assert upstream.connections == 0


async def test_what_is_not_stored_is_unknown_and_says_why(client: MirrorClient, upstream: Listener) -> None:
    for path, code in UNKNOWN.items():
        answer = await client.get(path)
        assert (answer.status, answer.code, answer.cache_status) == (404, code, "mirror")
        assert "offline" in answer.json["errors"][0]["message"]
        assert (await client.head(path)).status == 404
    assert upstream.connections == 0


async def test_lists_are_made_of_what_is_stored(client: MirrorClient, upstream: Listener) -> None:
    tags = await client.get("/v2/library/alpine/tags/list")
    assert (tags.json, tags.cache_status) == ({"name": "library/alpine", "tags": ["3.20"]}, "mirror; hit")
    assert (await client.get("/v2/_catalog")).json == {
        "repositories": ["ada/private", "library/alpine", "library/half"]
    }
    page = (await client.get("/")).body.decode()
    assert "offline: not asked" in page
    assert (await client.get("/readyz")).status == 200
    assert upstream.connections == 0


async def test_what_was_half_downloaded_is_gone_on_with_when_it_is_online_again(tmp_path: Path) -> None:
    keys = await _fill(tmp_path / "cache", tmp_path / "secret")
    path = f"/v2/library/half/blobs/{HALF.layers[0].digest}"
    async with DockerHub() as hub:
        hub.registry.add("library/half", "1", HALF)
        flags = {**hub.settings(), **keys}
        async with mirror_client(tmp_path / "cache", {**flags, "cache.offline": True}) as offline:
            assert (await offline.get(path)).status == 404
        assert hub.registry.requests == []
        async with mirror_client(tmp_path / "cache", flags) as online:
            assert (await online.get(path)).body == HALF.layers[0].content
        assert hub.registry.bytes_sent("blob") < HALF.layers[0].size_bytes


async def test_commands_ask_nobody_either(
    upstream: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "silence", lambda: None)  # that would be for the tests of others too
    config = tmp_path / "mirror.toml"
    config.write_text(
        f'[cache]\ndir = "{tmp_path}/cache"\noffline = true\n'
        f'[upstreams."registry.example"]\nendpoints = ["{upstream.url}"]\n',
        encoding="utf-8",
    )

    async def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
        return await asyncio.to_thread(main, [*arguments, "--config", str(config)])

    assert await run("check") == 0
    assert "offline" in capsys.readouterr().out
    assert await run("check", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    login = ("login", "registry.example", "-u", "ada", "--password-stdin")
    assert await run(*login) == 2
    assert "--no-check" in capsys.readouterr().err
    assert await run(*login, "--no-check") == 0
    assert upstream.connections == 0
