"""nginx and Caddy before the mirror, configured as in `deploy/`, but for ports, names and certificates."""

from __future__ import annotations

import http.client
import os
import shutil
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from mirror.cli.authority import Authority, Made
from tests.support.faults import Fault, Slow
from tests.support.images import blob, oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.ports import end_process, free_port, start_process, wait_for_port
from tests.support.process import RegistryProcess
from tests.support.waiting import wait_until

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
_NGINX = (
    "daemon off; error_log stderr; pid {folder}/pid; events {{}} http {{ {temporary} include {folder}/mirror.conf; }}"
)
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx(folder: Path, port: int, mirror_port: int, made: Made) -> Sequence[str | Path]:
    text = replaced(
        _DEPLOY / "nginx" / "mirror.conf",
        {
            "listen 443": f"listen 127.0.0.1:{port}",
            "127.0.0.1:5000;": f"127.0.0.1:{mirror_port};",
            "/etc/ssl/mirror/tls.crt": str(made.certificate),
            "/etc/ssl/mirror/tls.key": str(made.key),
        },
    )
    (folder / "mirror.conf").write_text(text)
    temporary = " ".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, temporary=temporary))
    return ["nginx", "-c", folder / "nginx.conf"]


def caddy(folder: Path, port: int, mirror_port: int, made: Made) -> Sequence[str | Path]:
    text = replaced(
        _DEPLOY / "caddy" / "Caddyfile",
        {
            "mirror.example.net {": f"https://127.0.0.1:{port} {{\n\ttls {made.certificate} {made.key}",
            "reverse_proxy 127.0.0.1:5000": f"reverse_proxy 127.0.0.1:{mirror_port}",
        },
    )
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text)
    return ["caddy", "run", "--config", folder / "Caddyfile", "--adapter", "caddyfile"]


def replaced(page: Path, changes: dict[str, str]) -> str:
    """Return a file with what belongs to a machine changed; each of it has to be there."""
    text = page.read_text()
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    return text


@pytest.fixture
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        yield started


@contextmanager
def proxied(
    command: Callable[[Path, int, int, Made], Sequence[str | Path]], folder: Path, mirror: MirrorProcess
) -> Iterator[Callable[[str], http.client.HTTPResponse]]:
    """Run it, and return what asks it."""
    made = Authority(folder / "certs").issue((ip_address("127.0.0.1"),), now=datetime.now(UTC))
    port = free_port()
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        arguments = [str(word) for word in command(folder, port, mirror.port, made)]
        process = start_process(arguments, output=log, errors=log, environment=environment)
    try:
        wait_for_port(port, process=process)
        context = ssl.create_default_context(cafile=made.authority)
        with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)) as connection:

            def ask(path: str) -> http.client.HTTPResponse:
                connection.request("GET", path, headers={"X-Forwarded-For": "192.0.2.1"})
                return connection.getresponse()

            yield ask
    finally:
        end_process(process)


@pytest.mark.parametrize("command", [nginx, caddy], ids=["nginx", "caddy"])
def test_it_passes_everything_on_as_it_is(
    command: Callable[[Path, int, int, Made], Sequence[str | Path]], registry: RegistryProcess, tmp_path: Path
) -> None:
    if shutil.which(command.__name__) is None:
        pytest.fail(f"{command.__name__} is not installed: tests/debian-packages.txt names it")
    image, part = oci_image(5), blob(2_000_000, 6)
    registry.add("owner/app", "1", image)
    registry.add_blob("owner/app", part)
    trusted = '[access]\ntrusted_proxies = ["127.0.0.1/32"]\n'
    with (
        MirrorProcess({"docker.io": registry.base_url, "ghcr.io": registry.base_url}, extra=trusted) as mirror,
        proxied(command, tmp_path, mirror) as ask,
    ):
        for outcome in ("stored", "hit"):
            answer = ask("/v2/owner/app/manifests/1?ns=ghcr.io")
            assert (answer.status, answer.read()) == (200, image.manifest)
            assert answer.headers["OCI-Namespace"] == "ghcr.io"
            assert outcome in answer.headers["Cache-Status"]
        registry.fail(Fault(action=Slow(bytes_per_second=1_000_000), kind="blob", times=1))
        answer = ask(f"/v2/owner/app/blobs/{part.digest}")
        first = answer.read(1000)
        assert registry.bytes_sent("blob", reference=part.digest) < part.size_bytes  # it was not waited for the last
        assert first + answer.read() == part.content
        assert ask("/v2/owner%2Fapp/manifests/1").read()
        wait_until(lambda: any(event.get("kind") == "other" for event in mirror.events()))
        served = [event for event in mirror.events() if event["event"] == "request.served"]
    assert {event["client"] for event in served} == {
        "127.0.0.1"
    }  # who came to the proxy; what it claimed is not believed
    assert [event["status"] for event in served if event["kind"] == "other"][-1] == 400
