"""Images carried to a site with no network: real clients read the archive, a Docker daemon pulls what it brought."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.clients import ARCHITECTURE, ClientFailed, Dockerd, Podman, Skopeo
from tests.support.commands import ask
from tests.support.images import Image, Pullable, docker_image, docker_list, oci_index
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

pytestmark = pytest.mark.clients
Images = Mapping[str, tuple[str, str, Pullable]]


@pytest.fixture
def images(upstreams: Mapping[str, RegistryProcess], seed: int) -> Images:
    """Return images that the upstreams have, by the names that people give them."""
    made: dict[str, tuple[str, str, Pullable]] = {
        f"carried-{seed}:1": ("docker.io", f"library/carried-{seed}", docker_list(seed + 2000)),
        f"owner/plain-{seed}:1": ("docker.io", f"owner/plain-{seed}", docker_image(seed + 2100)),
        f"ghcr.io/owner/carried-{seed}:1": ("ghcr.io", f"owner/carried-{seed}", oci_index(seed + 2200)),
    }
    for upstream, repository, pullable in made.values():
        upstreams[upstream].add(repository, "1", pullable)
    return made


def image_of(pullable: Pullable) -> Image:
    return pullable if isinstance(pullable, Image) else pullable.image(ARCHITECTURE)


@contextlib.contextmanager
def stopped(upstreams: Mapping[str, RegistryProcess]) -> Iterator[None]:
    """Let the upstreams be gone while the block runs."""
    for upstream in upstreams.values():
        upstream.stop()
    try:
        yield
    finally:
        for upstream in upstreams.values():
            upstream.start()


def pull_all(dockerd: Dockerd, images: Images) -> None:
    """Let the daemon pull every image, and forget it."""
    for upstream, repository, pullable in images.values():
        name = dockerd.name(upstream, f"{repository}:1")
        assert dockerd.pull(name) == image_of(pullable).config.digest
        dockerd.remove(name)


@pytest.mark.timeout(180)  # a dozen programs, one after the other
def test_a_docker_daemon_pulls_what_was_warmed_without_upstreams_and_what_was_carried_without_a_network(
    dockerd: Dockerd, images: Images, upstreams: Mapping[str, RegistryProcess], mirror_host: str, tmp_path: Path
) -> None:
    port = int(mirror_host.rpartition(":")[2])
    listed, archive = tmp_path / "images.txt", str(tmp_path / "images.tar")
    listed.write_text("\n".join(images), encoding="utf-8")
    urls = {name: upstream.base_url for name, upstream in upstreams.items()}
    with MirrorProcess(urls, port=port, extra='[cache]\ntag_ttl = "0s"\n') as online:
        warmed = ask(online, "warm", "--from", str(listed))
        assert (warmed.code, warmed.err) == (0, "")
        with stopped(upstreams):
            pull_all(dockerd, images)
        exported = ask(online, "export", "--from", str(listed), "-o", archive, "--platform", f"linux/{ARCHITECTURE}")
        assert (exported.code, exported.err) == (0, "")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.setblocking(False)  # noqa: FBT003 - its only argument
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        offline = MirrorProcess(dict.fromkeys(upstreams, url), port=port, extra="[cache]\noffline = true\n")
        imported = ask(offline, "import", archive)
        assert (imported.code, imported.err) == (0, "")
        with offline:
            pull_all(dockerd, images)
            with pytest.raises(ClientFailed, match="manifest unknown"):
                dockerd.pull(f"{mirror_host}/ghcr.io/owner/never:1")
        with pytest.raises(BlockingIOError):  # nobody has connected
            nobody.accept()


@pytest.mark.timeout(180)  # a dozen programs, one after the other
def test_other_clients_read_what_is_exported(
    mirror: MirrorProcess, images: Images, podman: Podman, skopeo: Skopeo, tmp_path: Path
) -> None:
    assert ask(mirror, "warm", *images).code == 0
    every, one = tmp_path / "every.tar", tmp_path / "one.tar"
    assert ask(mirror, "export", *images, "-o", str(every)).code == 0
    for name, (upstream, repository, pullable) in list(images.items())[1:]:  # one of Docker's types, one of OCI's
        full, config = f"{upstream}/{repository}:1", image_of(pullable).config.digest
        assert ask(mirror, "export", name, "-o", str(one)).code == 0
        assert full in podman.run("podman", "load", "--input", str(one)).stdout
        assert podman.run("podman", "images", "--no-trunc", "--quiet", full).stdout.strip() == config
        podman.remove(full)
        # Debian's skopeo finds Docker's own types only where there is one image
        source = f"oci-archive:{every}:{full}" if "oci" in pullable.media_type else f"oci-archive:{one}"
        inspected = skopeo.run("skopeo", "inspect", "--config", source)
        assert json.loads(inspected.stdout)["architecture"] == ARCHITECTURE
        copied = skopeo.folder / "copied"
        skopeo.run("skopeo", "copy", source, f"dir:{copied}")
        assert json.loads((copied / "manifest.json").read_bytes())["config"]["digest"] == config


def test_what_other_clients_have_written_is_imported(
    skopeo: Skopeo, dockerd: Dockerd, mirror_host: str, images: Images, mirror: MirrorProcess, tmp_path: Path
) -> None:
    upstream, repository, _ = next(iter(images.values()))
    full, archive, carried = f"{upstream}/{repository}:1", tmp_path / "skopeo.tar", "ghcr.io/own/carried:2"
    source = ("--src-tls-verify=false", f"docker://{mirror.host}/{full}")
    skopeo.run("skopeo", "copy", "--all", *source, f"oci-archive:{archive}:{full}")
    assert ask(mirror, "import", str(archive)).code == 0
    (image,) = ask(mirror, "import", str(archive), "--as", carried, "--json").result["images"]
    assert image["platforms"] == ["linux/amd64", "linux/arm64"]
    pulled = f"{mirror_host}/{carried.removesuffix(':2')}@{image['digest']}"  # its tag is unknown to the upstream
    assert dockerd.pull(pulled)
    dockerd.remove(pulled)
