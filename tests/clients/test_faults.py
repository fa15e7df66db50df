"""An upstream that breaks while a client pulls: the client notices nothing, or fails and is not harmed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.support.clients import ARCHITECTURE, Client, ClientFailed
from tests.support.faults import Cut, Fault, FlipByte
from tests.support.images import Image, oci_index
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

pytestmark = pytest.mark.clients

_REPOSITORY = "owner/app"
_LAYER_BYTES = 2_000_000


@pytest.fixture
def upstream(upstreams: Mapping[str, RegistryProcess]) -> Iterator[RegistryProcess]:
    """Return the registry behind ghcr.io, for which no client can go elsewhere; healed after the test."""
    yield upstreams["ghcr.io"]
    upstreams["ghcr.io"].heal()


@pytest.fixture
def image(upstream: RegistryProcess, seed: int) -> Image:
    index = oci_index(seed, layer_bytes=_LAYER_BYTES)
    upstream.add(_REPOSITORY, _tag(seed), index)
    return index.image(ARCHITECTURE)


def test_a_layer_cut_at_half_arrives_whole(
    client: Client, upstream: RegistryProcess, image: Image, mirror: MirrorProcess, seed: int
) -> None:
    layer = image.layers[0]
    upstream.fail(Fault(action=Cut(), kind="blob", path=layer.digest, times=1))
    assert client.pull(_name(client, seed)) == image.config.digest
    asked = [request for request in upstream.requests if request.reference == layer.digest]
    assert len(asked) == 2
    assert sum(request.bytes_sent for request in asked) < 1.2 * layer.size_bytes


def test_wrong_bytes_are_neither_pulled_nor_stored(
    client: Client, upstream: RegistryProcess, image: Image, mirror: MirrorProcess, seed: int
) -> None:
    layer = image.layers[0]
    upstream.fail(Fault(action=FlipByte(position=layer.size_bytes // 2), kind="blob", path=layer.digest))
    with pytest.raises(ClientFailed):
        client.pull(_name(client, seed))
    assert not _is_stored(mirror, layer.digest)
    upstream.heal()
    assert client.pull(_name(client, seed)) == image.config.digest
    assert _is_stored(mirror, layer.digest)


def _name(client: Client, seed: int) -> str:
    return client.name("ghcr.io", f"{_REPOSITORY}:{_tag(seed)}")


def _tag(seed: int) -> str:
    return f"v{seed}"


def _is_stored(mirror: MirrorProcess, digest: str) -> bool:
    return any((mirror.cache_folder / "blobs").rglob(digest.partition(":")[2]))
