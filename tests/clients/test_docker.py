"""What only Docker does: search through a registry that is named, and compose."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.clients import ARCHITECTURE, ClientFailed, Dockerd
from tests.support.images import docker_list, oci_index
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.snippets import MIRROR, snippet

pytestmark = pytest.mark.clients


def test_docker_search_prints_what_the_upstream_finds(
    dockerd: Dockerd, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    for repository in ("owner/haystack", "owner/needle-one", "other/needle-two"):
        upstreams["docker.io"].add(repository, "1", docker_list(seed))
    assert sorted(dockerd.search(f"{mirror.host}/needle")) == ["other/needle-two", "owner/needle-one"]


def test_an_image_that_is_nowhere_is_said_to_be_unknown(dockerd: Dockerd, mirror: MirrorProcess) -> None:
    with pytest.raises(ClientFailed, match="manifest unknown"):
        dockerd.pull(dockerd.name("ghcr.io", "owner/nowhere:1"))


def test_compose_pulls_a_file_of_three_images(
    dockerd: Dockerd, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    services = {
        "web": ("docker.io", "library/web", docker_list(seed)),
        "api": ("docker.io", "owner/api", oci_index(seed + 100)),
        "jobs": ("ghcr.io", "owner/jobs", oci_index(seed + 200)),
    }
    for upstream, repository, index in services.values():
        upstreams[upstream].add(repository, "1", index)
    names = {service: dockerd.name(upstream, f"{path}:1") for service, (upstream, path, _) in services.items()}

    dockerd.compose(names, "pull")

    for service, (_, _, index) in services.items():
        assert dockerd.config_digest(names[service]) == index.image(ARCHITECTURE).config.digest


def test_what_buildkit_builds_on_comes_through_the_mirror(
    dockerd: Dockerd, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    """BuildKit fetches by itself: by containerd's resolver, with the mirrors of ``daemon.json``."""
    base = docker_list(seed)
    upstreams["docker.io"].add("library/base", "1", base)
    dockerfile = dockerd.write("build/Dockerfile", "FROM base:1\nCOPY Dockerfile /Dockerfile\n")

    told = dockerd.build("built:1", dockerfile.parent)

    assert "load metadata for docker.io/library/base:1" in told  # Docker's old builder knows no metadata
    image = base.image(ARCHITECTURE)
    fetched = {image.digest, *(part.digest for part in (image.config, *image.layers))}
    served = [event for event in mirror.events() if event.get("repository") == "library/base"]
    assert {event["reference"] for event in served} == {"1", base.digest, *fetched}
    assert {event["status"] for event in served} == {200}
    requests = [request for request in upstreams["docker.io"].requests if request.repository == "library/base"]
    assert {request.reference for request in requests} == {"1", base.digest, *fetched}
    assert all(request.headers["user-agent"].startswith("mirror/") for request in requests)


def test_an_image_of_another_registry_is_pulled_by_the_path_that_the_page_shows(
    dockerd: Dockerd, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    index = docker_list(seed)
    upstreams["ghcr.io"].add("owner/shown", "1", index)
    shown = snippet("docs/clients.md", "docker pull").replaced({MIRROR: mirror.host, "OWNER/NAME:TAG": "owner/shown:1"})
    dockerd.run(*shown.split())
    assert dockerd.config_digest(shown.split()[-1]) == index.image(ARCHITECTURE).config.digest
