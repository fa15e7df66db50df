"""What every client shows: an image comes once from its upstream, and from then on from the mirror."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.support.clients import ARCHITECTURE, Client, Dockerd
from tests.support.images import Image, Index, docker_list, oci_index
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.record import Recorded

pytestmark = pytest.mark.clients

_TAG = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a two-platform image is, and of which kind it is."""

    upstream: str
    repository: str
    build: Callable[[int], Index]


_OFFICIAL = Source(upstream="docker.io", repository="library/app", build=docker_list)
_SOURCES = {
    "hub-docker": _OFFICIAL,
    "hub-oci": Source(upstream="docker.io", repository="owner/app", build=oci_index),
    "ghcr-oci": Source(upstream="ghcr.io", repository="owner/deep/app", build=oci_index),
}


@pytest.fixture(scope="module", params=[1, 2], ids=["1-worker", "2-workers"])
def workers(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.mark.parametrize("source", _SOURCES.values(), ids=_SOURCES)
def test_an_image_comes_from_its_upstream_once(
    client: Client,
    source: Source,
    upstreams: Mapping[str, RegistryProcess],
    mirror: MirrorProcess,
    seed: int,
) -> None:
    _show_that_it_comes_once(client, source, upstreams[source.upstream], seed)


@pytest.mark.parametrize("client_by_path", ["podman_by_path", "skopeo_by_path"])
def test_a_mirror_location_with_a_path_serves_the_same(
    client_by_path: str,
    upstreams: Mapping[str, RegistryProcess],
    mirror: MirrorProcess,
    seed: int,
    request: pytest.FixtureRequest,
) -> None:
    client = request.getfixturevalue(client_by_path)
    _show_that_it_comes_once(client, _OFFICIAL, upstreams["docker.io"], seed)


def test_another_platform_is_fetched_when_it_is_asked_for(
    dockerd: Dockerd, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    index = docker_list(seed)
    upstreams["docker.io"].add("library/app", _TAG, index)
    for image in index.images:
        upstreams["docker.io"].reset_record()
        assert dockerd.pull(f"app:{_TAG}", platform=f"linux/{image.architecture}") == image.config.digest
        blobs = [request.reference for request in upstreams["docker.io"].requests if request.kind == "blob"]
        assert sorted(filter(None, blobs)) == sorted(blob.digest for blob in image.blobs)


def _show_that_it_comes_once(client: Client, source: Source, upstream: RegistryProcess, seed: int) -> None:
    index = source.build(seed)
    image = index.image(ARCHITECTURE)
    upstream.add(source.repository, _TAG, index)
    name = client.name(source.upstream, f"{source.repository}:{_TAG}")
    upstream.reset_record()

    assert client.pull(name) == image.config.digest
    assert _fetched(upstream) == _needed(index, image)

    client.remove(name)
    upstream.reset_record()
    assert client.pull(name) == image.config.digest
    assert {request.method for request in _asked(upstream)} == {"HEAD"}  # has the tag moved?

    client.remove(name)
    with _stopped(upstream):
        assert client.pull(name) == image.config.digest
    client.remove(name)


def _needed(index: Index, image: Image) -> list[str]:
    return sorted([index.digest, image.digest, *(blob.digest for blob in image.blobs)])


def _fetched(upstream: RegistryProcess) -> list[str]:
    """Return the digests that were asked for with GET, each as often as it was."""
    return sorted(request.reference or request.path for request in _asked(upstream) if request.method == "GET")


def _asked(upstream: RegistryProcess) -> list[Recorded]:
    """Return what was asked, but for the probes of an upstream that was gone in an earlier test."""
    return [request for request in upstream.requests if request.kind != "ping"]


@contextmanager
def _stopped(upstream: RegistryProcess) -> Iterator[None]:
    upstream.stop()
    try:
        yield
    finally:
        upstream.start()
