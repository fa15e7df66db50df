"""One daemon of each kind for all tests here; a mirror and its upstreams for each module, always on the same port."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping

import pytest

from tests.support.clients import Client, Containerd, Dockerd, Podman, Skopeo
from tests.support.mirrors import MirrorProcess
from tests.support.ports import free_port
from tests.support.process import RegistryProcess

_seeds = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail("container daemons need root; leave these tests out with: -m 'not clients'")


@pytest.fixture
def seed() -> int:
    """Return what makes an image unlike those of all other tests: daemons share layers."""
    return next(_seeds)


@pytest.fixture(scope="session")
def mirror_host() -> str:
    """Return where the daemons expect the mirror."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def dockerd(mirror_host: str) -> Iterator[Dockerd]:
    with Dockerd(mirror_host) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def containerd(mirror_host: str) -> Iterator[Containerd]:
    with Containerd(mirror_host) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def podman(mirror_host: str) -> Iterator[Podman]:
    with Podman(mirror_host) as client:
        yield client


@pytest.fixture(scope="session")
def podman_by_path(mirror_host: str) -> Iterator[Podman]:
    with Podman(mirror_host, hub_path="/docker.io") as client:
        yield client


@pytest.fixture(scope="session")
def skopeo(mirror_host: str) -> Iterator[Skopeo]:
    with Skopeo(mirror_host) as client:
        yield client


@pytest.fixture(scope="session")
def skopeo_by_path(mirror_host: str) -> Iterator[Skopeo]:
    with Skopeo(mirror_host, hub_path="/docker.io") as client:
        yield client


@pytest.fixture(params=["dockerd", "containerd", "podman", "skopeo"])
def client(request: pytest.FixtureRequest) -> Client:
    """Return one client after the other."""
    found: Client = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Mapping[str, RegistryProcess]]:
    """Return two registries by the names that they have in the mirror."""
    with RegistryProcess() as hub, RegistryProcess() as ghcr:
        yield {"docker.io": hub, "ghcr.io": ghcr}


@pytest.fixture(scope="module")
def workers() -> int:
    return 1


@pytest.fixture(scope="module")
def mirror(upstreams: Mapping[str, RegistryProcess], workers: int, mirror_host: str) -> Iterator[MirrorProcess]:
    """Return a mirror that asks about a tag each time, and so notices an upstream that is gone."""
    urls = {name: registry.base_url for name, registry in upstreams.items()}
    port = int(mirror_host.rpartition(":")[2])
    with MirrorProcess(urls, workers=workers, port=port, extra='[cache]\ntag_ttl = "0s"\n') as process:
        yield process
