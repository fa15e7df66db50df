"""A mirror that wants a password, and how each client shows it one."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.clients import ARCHITECTURE, ClientFailed, Containerd, Dockerd, Podman, Skopeo
from tests.support.images import docker_list
from tests.support.mirrors import MirrorProcess
from tests.support.passwords import PASSWORD, USER, WRONG, write_htpasswd
from tests.support.process import RegistryProcess

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        yield started


@contextmanager
def guarded(registry: RegistryProcess, host: str, folder: Path, extra: str = "") -> Iterator[MirrorProcess]:
    path = write_htpasswd(folder / "htpasswd", {USER: PASSWORD})
    port = int(host.rpartition(":")[2])
    access = f'[access]\nhtpasswd = "{path}"\n{extra}'
    with MirrorProcess({"docker.io": registry.base_url}, port=port, extra=access) as mirror:
        yield mirror
        assert not [event for event in mirror.events() if event["event"] in {"request.failed", "task.failed"}]
        assert all("Authorization" not in request.headers for request in registry.requests)
        assert PASSWORD not in mirror.log_path.read_text()


@pytest.fixture
def mirror(registry: RegistryProcess, mirror_host: str, tmp_path: Path) -> Iterator[MirrorProcess]:
    with guarded(registry, mirror_host, tmp_path) as process:
        yield process


@pytest.fixture
def config(registry: RegistryProcess, seed: int) -> str:
    """Have an image, and return what a client that pulled it has: the digest of its config."""
    index = docker_list(seed)
    registry.add("library/app", str(seed), index)
    return index.image(ARCHITECTURE).config.digest


def users(mirror: MirrorProcess) -> set[object]:
    """Return who was given content."""
    return {
        event.get("user")
        for event in mirror.events()
        if event["event"] == "request.served" and event["status"] == 200 and event["kind"] in {"manifest", "blob"}
    }


@pytest.mark.parametrize("kind", [Podman, Skopeo])
def test_podman_and_skopeo_log_in_to_the_mirror_then_pull(
    mirror: MirrorProcess, seed: int, config: str, kind: type[Podman | Skopeo]
) -> None:
    program, image = kind.__name__.lower(), f"docker.io/library/app:{seed}"
    with kind(mirror.host) as client:
        client.environment["REGISTRY_AUTH_FILE"] = str(client.folder / "auth.json")
        login = [program, "login", "--tls-verify=false", mirror.host, "--username", USER, "--password"]
        with pytest.raises(ClientFailed):
            client.pull(image)
        with pytest.raises(ClientFailed, match="invalid username/password"):
            client.run(*login, WRONG)
        assert "Login Succeeded" in client.run(*login, PASSWORD).stdout
        assert client.pull(image) == config
        client.run(program, "logout", mirror.host)
        client.remove(image)
        with pytest.raises(ClientFailed):
            client.pull(image)
    assert users(mirror) == {USER}


def test_docker_logs_in_to_the_mirror_then_pulls_by_its_name(
    dockerd: Dockerd, mirror: MirrorProcess, seed: int, config: str
) -> None:
    image = f"{mirror.host}/library/app:{seed}"
    login = ["docker", "login", mirror.host, "--username", USER, "--password"]
    with pytest.raises(ClientFailed, match="no basic auth credentials"):
        dockerd.pull(image)
    with pytest.raises(ClientFailed, match="401 Unauthorized"):
        dockerd.run(*login, WRONG)
    assert "Login Succeeded" in dockerd.run(*login, PASSWORD).stdout
    try:
        assert dockerd.pull(image) == config
    finally:
        dockerd.run("docker", "logout", mirror.host)
    dockerd.remove(image)
    with pytest.raises(ClientFailed, match="no basic auth credentials"):
        dockerd.pull(image)
    assert users(mirror) == {USER}


def test_a_daemon_pulls_through_its_mirror_from_a_network_that_needs_no_password(
    dockerd: Dockerd, registry: RegistryProcess, mirror_host: str, tmp_path: Path, seed: int, config: str
) -> None:
    image = dockerd.name("docker.io", f"library/app:{seed}")
    with guarded(registry, mirror_host, tmp_path), pytest.raises(ClientFailed):
        dockerd.pull(image)
    with guarded(registry, mirror_host, tmp_path, 'anonymous_networks = ["127.0.0.0/8"]\n') as mirror:
        assert dockerd.pull(image) == config
        assert users(mirror) == {None}


def test_containerd_shows_the_password_that_stands_in_its_hosts_file(
    mirror: MirrorProcess, seed: int, config: str
) -> None:
    image = f"docker.io/library/app:{seed}"
    with Containerd(mirror.host) as client:
        with pytest.raises(ClientFailed):
            client.pull(image)
        hosts = client.folder / "hosts" / "docker.io" / "hosts.toml"
        encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        with hosts.open("a") as file:
            file.write(f'header = {{ Authorization = "Basic {encoded}" }}\n')
        assert client.pull(image) == config
    assert users(mirror) == {USER}
