"""Clients behind reverse proxies: who is believed about whom."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.app import counting, prepare_store, running
from mirror.web.doors import Doors
from mirror.web.htpasswd import Htpasswd
from tests.bench.servers import running_nginx
from tests.functional.conftest import StartMirror
from tests.support.images import docker_image
from tests.support.mirrors import MirrorProcess, configure, settings
from tests.support.passwords import PASSWORD, USER, basic, write_htpasswd
from tests.support.ports import free_port
from tests.support.process import RegistryProcess
from tests.support.pulling import ACCEPT, MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
IMAGE = docker_image(1)
MANIFEST = f"/v2/{NAME}/manifests/{IMAGE.digest}"


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "latest", IMAGE)
    return registry


async def client_logged(client: MirrorClient, path: str, **headers: str) -> str:
    """Ask, and return who that was to the mirror."""
    with capture_logs() as events:
        await client.ask(path, headers={**ACCEPT, **{name.replace("_", "-"): value for name, value in headers.items()}})
    (served,) = [event for event in events if event["event"] == "request.served"]
    return str(served["client"])


async def test_a_trusted_proxy_says_who_its_client_is(registry: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(registry.base_url, overrides={"access.trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]})
    for _ in range(3):  # hot requests too
        assert await client_logged(client, MANIFEST) == "127.0.0.1"
        assert await client_logged(client, MANIFEST, X_Forwarded_For="192.0.2.1") == "192.0.2.1"
        assert await client_logged(client, MANIFEST, X_Forwarded_For="6.6.6.6, 192.0.2.2, 10.0.0.1") == "192.0.2.2"
    assert await client_logged(client, "/nothing", X_Forwarded_For="2001:DB8::1") == "2001:db8::1"
    assert await client_logged(client, "/nothing", X_Forwarded_For="unknown") == "127.0.0.1"


async def test_nobody_else_does(registry: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(registry.base_url, overrides={"access.trusted_proxies": ["10.0.0.0/8"]})
    assert await client_logged(client, MANIFEST, X_Forwarded_For="10.0.0.1") == "127.0.0.1"


async def test_who_is_in_a_network_without_passwords_is_the_client_and_not_the_proxy(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path
) -> None:
    path = write_htpasswd(tmp_path / "htpasswd", {USER: PASSWORD})
    client = await start_mirror(
        registry.base_url,
        overrides={
            "access.htpasswd": str(path),
            "access.trusted_proxies": ["127.0.0.0/8"],
            "access.anonymous_networks": ["127.0.0.0/8", "192.0.2.0/24"],
        },
    )

    async def status(forwarded_for: str | None) -> int:
        headers = dict(ACCEPT) if forwarded_for is None else {**ACCEPT, "X-Forwarded-For": forwarded_for}
        return (await client.ask(MANIFEST, headers=headers)).status

    for _ in range(2):
        assert await status("192.0.2.7") == 200
        assert await status("198.51.100.1") == 401
        assert await status("192.0.2.7, 198.51.100.1") == 401  # which is what a client can have written itself
        assert await status(None) == 200


async def asked_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *headers: str) -> bytes:
    writer.write("\r\n".join([f"GET {MANIFEST} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
    status = await reader.readline()
    length = 0
    while (line := await reader.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    await reader.readexactly(length)
    return status.split()[1]


@pytest.mark.parametrize(
    ("access", "statuses"),
    [
        ({}, {"v4": b"401", "v6": b"401", "unix": b"401"}),
        ({"anonymous_networks": ["127.0.0.1"]}, {"v4": b"200", "v6": b"401", "unix": b"401"}),
        ({"anonymous_networks": ["::ffff:127.0.0.1/128"]}, {"v4": b"200", "v6": b"401", "unix": b"401"}),
        ({"anonymous_networks": ["::1"]}, {"v4": b"401", "v6": b"200", "unix": b"401"}),
        ({"anonymous_networks": ["unix:"]}, {"v4": b"401", "v6": b"401", "unix": b"200"}),
        (
            {"anonymous_networks": ["192.0.2.0/24"], "trusted_proxies": ["unix:", "::1"]},
            {"v4": b"401", "v6": b"200", "unix": b"200"},
        ),
    ],
    ids=["none", "v4", "mapped", "v6", "unix", "proxies"],
)
async def test_each_kind_of_address_is_known_by_its_network(
    registry: TestRegistry, tmp_path: Path, access: Mapping[str, object], statuses: Mapping[str, bytes]
) -> None:
    """One socket takes IPv4 and IPv6, and shows the first as a part of the second."""
    path = write_htpasswd(tmp_path / "htpasswd", {USER: PASSWORD})
    flags = {f"access.{key}": value for key, value in {"htpasswd": str(path), **access}.items()}
    config = configure(tmp_path / "cache", settings({"docker.io": registry.base_url}) | flags)
    await asyncio.to_thread(prepare_store, config)
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    local = socket.socket(socket.AF_UNIX)
    with both, local, counting() as counters:
        local.bind(str(tmp_path / "socket"))
        local.listen()
        port = both.getsockname()[1]
        serving = running(config, Doors(pulls=[both, local]), counters, htpasswd=Htpasswd(path))
        async with serving:
            for _ in range(2):
                for kind, status in statuses.items():
                    connecting = (
                        asyncio.open_unix_connection(tmp_path / "socket")
                        if kind == "unix"
                        else asyncio.open_connection("127.0.0.1" if kind == "v4" else "::1", port)
                    )
                    reader, writer = await connecting
                    for _ in range(3):
                        assert await asked_of(reader, writer, "X-Forwarded-For: 192.0.2.9") == status, kind
                    writer.close()


NGINX = """server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://{mirror};
      proxy_bind 127.0.0.2;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}"""


def test_a_real_proxy_tells_its_clients_apart_and_none_can_pretend(tmp_path: Path) -> None:
    path, port = write_htpasswd(tmp_path / "htpasswd", {USER: PASSWORD}), free_port()
    access = f'[access]\nhtpasswd = "{path}"\nanonymous_networks = ["127.0.0.3"]\ntrusted_proxies = ["127.0.0.2"]\n'
    nginx = tmp_path / "nginx"
    nginx.mkdir()

    def status(port: int, source: str, headers: Mapping[str, str]) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(source, 0))
        with contextlib.closing(connection):
            connection.request("GET", MANIFEST, headers=dict(headers))
            return connection.getresponse().status

    with RegistryProcess() as registry, MirrorProcess({"docker.io": registry.base_url}, extra=access) as mirror:
        registry.add(NAME, "latest", IMAGE)
        block = NGINX.format(port=port, mirror=mirror.host)
        with running_nginx(block, port, nginx):
            spoofed = {"X-Forwarded-For": "127.0.0.3"}
            for _ in range(3):
                assert status(port, "127.0.0.3", {}) == 200
                assert status(port, "127.0.0.4", {}) == 401
                assert status(port, "127.0.0.4", spoofed) == 401
                assert status(mirror.port, "127.0.0.4", spoofed) == 401
                assert status(port, "127.0.0.4", {**spoofed, **basic(USER, PASSWORD)}) == 200
        served = [event for event in mirror.events() if event["event"] == "request.served"]
    assert {(event["client"], event.get("user"), event["status"]) for event in served} == {
        ("127.0.0.3", None, 200),
        ("127.0.0.4", None, 401),
        ("127.0.0.4", USER, 200),
    }
