"""The page at ``/`` says what somebody has to know of each upstream, and no secret."""

from __future__ import annotations

import http.client
import re
from pathlib import Path

import pytest

from tests.functional.conftest import StartMirror
from tests.support.habits import DockerHub, Ghcr
from tests.support.images import docker_image
from tests.support.mirrors import MirrorProcess
from tests.support.ports import free_port
from tests.support.process import RegistryProcess
from tests.support.pulling import MirrorClient
from tests.support.registry import RateLimit


async def rows(client: MirrorClient) -> dict[str, list[str]]:
    """Return the cells of each upstream's row."""
    answer = await client.get("/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    (table,) = re.findall(r'<div id="upstreams" data-live>(.*?)</div>', answer.body.decode())
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
    asked = {name: rest for name, *rest in cells[1:]}
    return asked | {name: [] for line in re.findall("Not asked yet: (.*?)</p>", table) for name in line.split(", ")}


async def test_it_tells_state_credential_and_limit(start_mirror: StartMirror, tmp_path: Path) -> None:
    async with DockerHub() as hub, Ghcr() as ghcr:
        flags: dict[str, object] = {**hub.settings(), **ghcr.settings()}
        for habit, password in ((hub, hub.access.users["ada"]), (ghcr, "guess-4711")):
            (tmp_path / habit.name).write_text(password, encoding="utf-8")
            keys = {"username": next(iter(habit.access.users)), "password_file": str(tmp_path / habit.name)}
            flags |= {f"upstreams.{habit.name}.{key}": value for key, value in keys.items()}
        client = await start_mirror(overrides=flags)
        assert (await rows(client))["ghcr.io"] == [
            "not asked yet",
            "from the configuration: not shown yet",
            "not told",
        ]
        for habit in (hub, ghcr):
            await client.get(f"/v2/{habit.name}/{habit.public.repository}/manifests/{habit.public.tag}")
        shown = await rows(client)
        assert shown["docker.io"] == ["answers", "from the configuration: accepted", "99 of 100 left"]
        assert shown["ghcr.io"] == ["answers", "from the configuration: refused, left alone for 5 min", "not told"]
        assert shown["quay.io"] == []
        body = (await client.get("/")).body.decode()
        assert "ghcr.io refuses its credential." in body
        assert not any(secret in body for habit in (hub, ghcr) for secret in habit.secrets | {"guess-4711", "ada"})

        hub.registry.limit = RateLimit(limit=100, remaining=0)
        hub.registry.add("library/new", "1", docker_image(990, layers=1, layer_bytes=100))
        assert (await client.get("/v2/docker.io/library/new/manifests/1")).status == 503
        await ghcr.stop()
        await client.get(f"/v2/ghcr.io/{ghcr.public.repository}/tags/list")
        shown = await rows(client)
        assert shown["docker.io"][2] == "reached; asked again in 216 s"
        assert shown["ghcr.io"][0] == "does not answer"


async def test_nothing_on_it_comes_from_outside(client: MirrorClient) -> None:
    answer = await client.get("/")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    addresses = re.findall(r"""(?:src|href)=["']?([^"'>]*)""", answer.body.decode())
    assert addresses == ["data:,", "metrics", "api/v1/overview"]


@pytest.mark.parametrize("workers", [1, 2])
def test_with_an_address_of_their_own_page_and_metrics_are_nowhere_else(workers: int) -> None:
    port = free_port()
    address = f'[server]\nmetrics_listen = "127.0.0.1:{port}"\n'
    registry = RegistryProcess()
    with registry, MirrorProcess({"docker.io": registry.base_url}, workers=workers, extra=address) as mirror:
        for _ in range(2 * workers):
            for path in ("/", "/metrics", "/api/v1/overview"):
                assert mirror.request(path).status == 404
                assert request(port, path)[0] == 200
            for path in ("/healthz", "/readyz"):
                assert mirror.request(path).status == request(port, path)[0] == 200
        assert mirror.request("/v2/").status == 200
        status, body = request(port, "/v2/")
        assert (status, "images are pulled from another" in body) == (404, True)
        assert f"mirror_workers {float(workers)}" in request(port, "/metrics")[1]


def request(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
