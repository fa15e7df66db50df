"""What ``mirror client-config`` prints, and what the pages show, makes the real client pull through the mirror."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.clients import Client, Containerd, Dockerd, Podman, Skopeo
from tests.support.images import docker_list
from tests.support.mirrors import MirrorProcess
from tests.support.ports import free_port
from tests.support.process import RegistryProcess
from tests.support.snippets import MIRROR, Snippet, snippet

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def mirror_host() -> str:
    """Return a port of this module's own: its clients are configured differently from all others."""
    return f"127.0.0.1:{free_port()}"


@cache
def printed(client: str, url: str, config: Path | None = None) -> str:
    """Return what the command prints on standard output."""
    command = [sys.executable, "-m", "mirror", "client-config", client, "--url", url]
    command += ["--config", str(config)] if config else []
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class _DindDaemon(Dockerd):
    """A daemon with the flags that a GitLab runner's service gets."""

    flags: Sequence[str] = ()

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), *self.flags]


def _docker(host: str, text: str) -> Dockerd:
    daemon = Dockerd(host)
    settings = json.loads((daemon.folder / "daemon.json").read_text()) | json.loads(text)
    daemon.write("daemon.json", json.dumps(settings))
    return daemon


def _gitlab_runner(host: str, text: str) -> Dockerd:
    runners = tomllib.loads(text)["runners"]
    (service,) = runners["docker"]["services"]
    daemon = _DindDaemon(host)
    settings = json.loads((daemon.folder / "daemon.json").read_text())
    del settings["registry-mirrors"]
    daemon.write("daemon.json", json.dumps(settings))
    daemon.flags = service["command"]
    return daemon


def _containerd(host: str, text: str) -> Containerd:
    daemon = _unconfigured_containerd(host)
    daemon.write("hosts/_default/hosts.toml", text)
    return daemon


def _unconfigured_containerd(host: str) -> Containerd:
    daemon = Containerd(host)
    for folder in (daemon.folder / "hosts").iterdir():
        (folder / "hosts.toml").unlink()
        folder.rmdir()
    return daemon


def _k3s(host: str, text: str) -> Containerd:
    """Do with ``registries.yaml`` what k3s does: it writes containerd's files.

    Source: https://github.com/k3s-io/k3s/blob/v1.34.1%2Bk3s1/pkg/agent/containerd/config.go
    """
    daemon = _unconfigured_containerd(host)
    file = yaml.safe_load(text)
    assert file.keys() == {"mirrors"}
    for name, mirror in file["mirrors"].items():
        assert mirror.keys() == {"endpoint"}
        tables = "".join(map(_host_of_k3s, mirror["endpoint"]))
        server = "" if name == "*" else f'server = "https://{name}/v2"\n'
        daemon.write(f"hosts/{'_default' if name == '*' else name}/hosts.toml", server + tables)
    return daemon


def _host_of_k3s(endpoint: str) -> str:
    """Take a path for the whole of the path, as k3s does, unless it is the usual one."""
    path = urlsplit(endpoint).path
    is_usual = path in {"", "/", "/v2"}
    whole = endpoint.removesuffix(path) + "/v2" if is_usual else endpoint
    override = "" if is_usual else "  override_path = true\n"
    return f'[host."{whole}"]\n  capabilities = ["pull", "resolve"]\n{override}'


def _podman(host: str, text: str) -> Podman:
    client = Podman(host)
    client.write("registries.conf", text)
    return client


def _skopeo(host: str, text: str) -> Skopeo:
    client = Skopeo(host)
    client.write("registries.conf", text)
    return client


@pytest.fixture(
    scope="module",
    params=[
        (_docker, "docker"),
        (_gitlab_runner, "gitlab-runner"),
        (_containerd, "containerd"),
        (_k3s, "k3s"),
        (_podman, "podman"),
        (_skopeo, "podman"),
        (_k3s, snippet("docs/clients.md", "mirrors:")),
        (_podman, snippet("docs/clients.md", "[[registry]]")),
        (_skopeo, snippet("README.md", "[[registry]]")),
    ],
    ids=lambda made: f"{made[0].__name__[1:]} {'printed' if isinstance(made[1], str) else made[1]}",
)
def configured(request: pytest.FixtureRequest, mirror_host: str) -> Iterator[Client]:
    """Return a client with what the command prints for it, or with what a page shows."""
    make: Callable[[str, str], Client]
    make, source = request.param
    shown = source.replaced({MIRROR: mirror_host}) if isinstance(source, Snippet) else None
    with make(mirror_host, shown or printed(source, f"http://{mirror_host}")) as client:
        yield client


@pytest.mark.parametrize("upstream", ["docker.io", "ghcr.io"])
def test_a_client_that_is_configured_so_pulls_through_the_mirror(
    configured: Client, upstream: str, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    index = docker_list(1000 + seed)
    upstreams[upstream].add("owner/app", "1", index)
    name = configured.name(upstream, "owner/app:1")
    assert configured.pull(name) in {image.config.digest for image in index.images}
    assert {request.kind for request in upstreams[upstream].requests} >= {"manifest", "blob"}
    assert all(request.headers.get("user-agent", "").startswith("mirror/") for request in upstreams[upstream].requests)


def test_with_another_default_upstream_docker_is_given_a_path(tmp_path: Path) -> None:
    config = tmp_path / "mirror.toml"
    config.write_text('[upstreams."docker.io"]\ndefault = false\n[upstreams."ghcr.io"]\ndefault = true\n')
    settings = json.loads(printed("docker", "https://mirror.test", config))
    assert settings == {"registry-mirrors": ["https://mirror.test/docker.io"]}


def test_k3s_behind_a_path_of_a_proxy_asks_below_that_path(
    mirror_host: str, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    index = docker_list(2000 + seed)
    upstreams["docker.io"].add("owner/app", "1", index)
    with _k3s(mirror_host, printed("k3s", f"http://{mirror_host}/docker.io")) as client:
        assert client.pull("docker.io/owner/app:1") in {image.config.digest for image in index.images}


def test_buildkit_is_given_keys_that_it_knows() -> None:
    """There is no buildkitd here; an unknown key would go unnoticed there.

    Source: https://github.com/moby/buildkit/blob/v0.25.1/docs/buildkitd.toml.md
    """
    registries = tomllib.loads(printed("buildkit", "http://mirror.test:5000/path"))["registry"]
    assert registries.pop("mirror.test:5000") == {"http": True}
    assert {"docker.io", "ghcr.io"} <= registries.keys()
    assert all(registry == {"mirrors": ["mirror.test:5000/path"]} for registry in registries.values())


# --- what the pages show


@pytest.mark.parametrize(
    ("client", "read", "shown"),
    [
        ("docker", json.loads, snippet("README.md", "{")),
        ("docker", json.loads, snippet("docs/clients.md", "{")),
        ("containerd", tomllib.loads, snippet("docs/clients.md", "[host.")),
        ("gitlab-runner", tomllib.loads, snippet("docs/clients.md", "[[runners.docker.services]]")),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value) if isinstance(value, Snippet) else "",
)
def test_a_page_shows_what_is_printed(client: str, read: Callable[[str], object], shown: Snippet) -> None:
    """So the tests above have run it with the real client."""
    assert read(shown.text) == read(printed(client, f"http://{MIRROR}"))


def test_a_job_of_gitlab_is_shown_the_service_of_its_runner() -> None:
    (service,) = yaml.safe_load(snippet("docs/clients.md", "services:").text)["services"]
    assert [service] == tomllib.loads(printed("gitlab-runner", f"http://{MIRROR}"))["runners"]["docker"]["services"]


@pytest.mark.parametrize(
    "shown",
    [snippet("README.md", '[registry."docker.io"]'), snippet("docs/clients.md", '[registry."docker.io"]')],
    ids=str,
)
def test_buildkit_is_shown_a_part_of_what_is_printed(shown: Snippet) -> None:
    """There is no buildkitd here that reads a file."""
    whole = tomllib.loads(printed("buildkit", f"http://{MIRROR}"))["registry"]
    part = tomllib.loads(shown.text)["registry"]
    assert part.items() <= whole.items()
    assert {"docker.io", "ghcr.io", MIRROR} == part.keys()


def test_containerd_pulls_with_a_file_for_one_registry_and_with_that_of_the_readme(
    mirror_host: str, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    shown = {
        "docker.io": snippet("docs/clients.md", 'server = "https://registry-1.docker.io"'),
        "_default": snippet("README.md", "[host."),
    }
    index = docker_list(3000 + seed)
    with _unconfigured_containerd(mirror_host) as daemon:
        for folder, one in shown.items():
            daemon.write(f"hosts/{folder}/hosts.toml", one.replaced({MIRROR: mirror_host}))
        for name in ("docker.io", "ghcr.io"):
            upstreams[name].add("owner/app", "1", index)
            assert daemon.pull(f"{name}/owner/app:1") in {image.config.digest for image in index.images}
            assert upstreams[name].requests


def test_containerd_is_told_where_the_files_are(tmp_path: Path) -> None:
    """Debian's is 1.x: what 2.x is to be told can only be held against it."""
    older = snippet("docs/clients.md", "version = 2")
    (tmp_path / "config.toml").write_text(older.text, encoding="utf-8")
    command = ["containerd", "--config", str(tmp_path / "config.toml"), "config", "dump"]
    dumped = tomllib.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    told = dumped["plugins"]["io.containerd.grpc.v1.cri"]["registry"]["config_path"]
    assert told == "/etc/containerd/certs.d"
    newer = tomllib.loads(snippet("docs/clients.md", "version = 3").text)
    assert newer == {
        "version": 3,
        "plugins": {"io.containerd.cri.v1.images": {"registry": {"config_path": told}}},
    }
