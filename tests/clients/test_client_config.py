"""What ``mirror client-config`` prints, put where it belongs, makes the real client pull through the mirror."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.clients import Client, Containerd, Dockerd, Podman, Skopeo
from tests.support.images import docker_list
from tests.support.mirrors import MirrorProcess
from tests.support.ports import free_port
from tests.support.process import RegistryProcess

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def mirror_host() -> str:
    """Return a port of this module's own: its clients are configured differently from all others."""
    return f"127.0.0.1:{free_port()}"


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


def _docker(host: str, url: str) -> Dockerd:
    daemon = Dockerd(host)
    settings = json.loads((daemon.folder / "daemon.json").read_text()) | json.loads(printed("docker", url))
    daemon.write("daemon.json", json.dumps(settings))
    return daemon


def _gitlab_runner(host: str, url: str) -> Dockerd:
    runners = tomllib.loads(printed("gitlab-runner", url))["runners"]
    (service,) = runners["docker"]["services"]
    daemon = _DindDaemon(host)
    settings = json.loads((daemon.folder / "daemon.json").read_text())
    del settings["registry-mirrors"]
    daemon.write("daemon.json", json.dumps(settings))
    daemon.flags = service["command"]
    return daemon


def _containerd(host: str, url: str) -> Containerd:
    daemon = Containerd(host)
    for folder in (daemon.folder / "hosts").iterdir():
        (folder / "hosts.toml").unlink()
        folder.rmdir()
    daemon.write("hosts/_default/hosts.toml", printed("containerd", url))
    return daemon


def _k3s(host: str, url: str) -> Containerd:
    """Do with ``registries.yaml`` what k3s does: it writes containerd's files.

    Source: https://github.com/k3s-io/k3s/blob/v1.34.1%2Bk3s1/pkg/agent/containerd/config.go
    """
    daemon = Containerd(host)
    file = yaml.safe_load(printed("k3s", url))
    assert file.keys() == {"mirrors"}
    for name, mirror in file["mirrors"].items():
        assert mirror.keys() == {"endpoint"}
        tables = "".join(map(_host_of_k3s, mirror["endpoint"]))
        daemon.write(f"hosts/{name}/hosts.toml", f'server = "https://{name}/v2"\n{tables}')
    return daemon


def _host_of_k3s(endpoint: str) -> str:
    """Take a path for the whole of the path, as k3s does, unless it is the usual one."""
    path = urlsplit(endpoint).path
    is_usual = path in {"", "/", "/v2"}
    whole = endpoint.removesuffix(path) + "/v2" if is_usual else endpoint
    override = "" if is_usual else "  override_path = true\n"
    return f'[host."{whole}"]\n  capabilities = ["pull", "resolve"]\n{override}'


def _podman(host: str, url: str) -> Podman:
    client = Podman(host)
    client.write("registries.conf", printed("podman", url))
    return client


def _skopeo(host: str, url: str) -> Skopeo:
    client = Skopeo(host)
    client.write("registries.conf", printed("podman", url))
    return client


@pytest.fixture(
    scope="module",
    params=[_docker, _gitlab_runner, _containerd, _k3s, _podman, _skopeo],
    ids=lambda make: make.__name__[1:],
)
def configured(request: pytest.FixtureRequest, mirror_host: str) -> Iterator[Client]:
    make: Callable[[str, str], Client] = request.param
    with make(mirror_host, f"http://{mirror_host}") as client:
        yield client


@pytest.mark.parametrize("upstream", ["docker.io", "ghcr.io"])
def test_a_client_with_the_printed_configuration_pulls_through_the_mirror(
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
    with _k3s(mirror_host, f"http://{mirror_host}/docker.io") as client:
        assert client.pull("docker.io/owner/app:1") in {image.config.digest for image in index.images}


def test_buildkit_is_given_keys_that_it_knows() -> None:
    """There is no buildkitd here; an unknown key would go unnoticed there.

    Source: https://github.com/moby/buildkit/blob/v0.25.1/docs/buildkitd.toml.md
    """
    registries = tomllib.loads(printed("buildkit", "http://mirror.test:5000/path"))["registry"]
    assert registries.pop("mirror.test:5000") == {"http": True}
    assert {"docker.io", "ghcr.io"} <= registries.keys()
    assert all(registry == {"mirrors": ["mirror.test:5000/path"]} for registry in registries.values())
