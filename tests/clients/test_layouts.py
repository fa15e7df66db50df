"""How clients that cannot be run here write the upstream into a path, and what containerd gets for ``ns``."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.support.clients import ARCHITECTURE, Containerd
from tests.support.images import oci_index
from tests.support.mirrors import Answer, MirrorProcess
from tests.support.process import RegistryProcess

pytestmark = pytest.mark.clients

_LAYOUTS = {
    "buildkit": ("docker.io", "library/app", "/v2/docker.io/library/app/{}?ns=docker.io"),
    "buildkit-without-path": ("docker.io", "library/app", "/v2/library/app/{}?ns=docker.io"),
    "docker-24": ("ghcr.io", "owner/app", "/ghcr.io/v2/owner/app/{}"),
    "docker-29": ("docker.io", "library/app", "/docker.io/v2/library/app/{}?ns=docker.io"),
    "podman": ("ghcr.io", "owner/app", "/v2/ghcr.io/owner/app/{}"),
    "podman-official": ("docker.io", "library/app", "/v2/docker.io/app/{}"),
}


@pytest.mark.parametrize(("upstream", "repository", "layout"), _LAYOUTS.values(), ids=_LAYOUTS)
def test_every_layout_leads_to_the_upstream(
    upstream: str,
    repository: str,
    layout: str,
    upstreams: Mapping[str, RegistryProcess],
    mirror: MirrorProcess,
    seed: int,
) -> None:
    index = oci_index(seed, layer_bytes=1000)
    image = index.image(ARCHITECTURE)
    upstreams[upstream].add(repository, "1", index)

    def ask(resource: str, method: str = "GET") -> Answer:
        answer = mirror.request(layout.format(resource), method=method)
        assert answer.status == 200
        assert answer.headers.get("oci-namespace") == ("docker.io" if "ns=" in layout else None)
        return answer

    assert ask("manifests/1", method="HEAD").headers["docker-content-digest"] == index.digest
    assert ask(f"manifests/{index.digest}").body == index.manifest
    assert ask(f"manifests/{image.digest}").body == image.manifest
    for blob in image.blobs:
        assert ask(f"blobs/{blob.digest}").body == blob.content


def test_containerd_names_the_upstream_and_is_told_so(
    containerd: Containerd, upstreams: Mapping[str, RegistryProcess], mirror: MirrorProcess, seed: int
) -> None:
    upstreams["ghcr.io"].add("owner/app", "1", oci_index(seed))
    spoken = containerd.pull_verbosely("ghcr.io/owner/app:1")
    assert "HEAD /v2/owner/app/manifests/1?ns=ghcr.io" in spoken
    assert "Oci-Namespace: ghcr.io" in spoken
