"""What an operator allows and denies holds for everything that can be asked of a repository."""

from __future__ import annotations

import pytest

from tests.functional.conftest import StartMirror
from tests.support.images import artifact, docker_image
from tests.support.pulling import MirrorClient, mirror_client
from tests.support.registry import TestRegistry

ALLOWED, DENIED, OTHER = "team/app", "team/secret", "elsewhere/app"
IMAGE = docker_image(31, layers=1, layer_bytes=2000)
RULES = {"upstreams.docker.io.allow": ["team/*", "library/**"], "upstreams.docker.io.deny": ["**/secret"]}
PATHS = {
    "tag": "manifests/1",
    "manifest": f"manifests/{IMAGE.digest}",
    "blob": f"blobs/{IMAGE.layers[0].digest}",
    "manifest as blob": f"blobs/{IMAGE.digest}",
    "tags": "tags/list",
    "referrers": f"referrers/{IMAGE.digest}",
}


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    for repository in (ALLOWED, DENIED, OTHER, "library/app"):
        registry.add(repository, "1", IMAGE)
        registry.add(repository, None, artifact(IMAGE))
    return registry


async def status(client: MirrorClient, path: str, method: str) -> int:
    return (await client.ask(path, method=method)).status


@pytest.mark.parametrize("what", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_is_denied_is_refused_whatever_is_asked(
    registry: TestRegistry, start_mirror: StartMirror, what: str, method: str
) -> None:
    client = await start_mirror(registry.base_url, overrides=RULES)
    for repository in (DENIED, OTHER):
        for path in (f"/v2/{repository}", f"/v2/docker.io/{repository}", f"/docker.io/v2/{repository}"):
            assert await status(client, f"{path}/{PATHS[what]}", method) == 403
        assert await status(client, f"/v2/{repository}/{PATHS[what]}?ns=docker.io", method) == 403
    assert registry.requests == []  # the upstream hears nothing of it
    assert await status(client, f"/v2/{ALLOWED}/{PATHS[what]}", method) == 200
    assert await status(client, f"/v2/app/{PATHS[what]}", method) == 200  # library/app


async def test_the_refusal_says_whose_it_is(registry: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(registry.base_url, overrides=RULES)
    answer = await client.get(f"/v2/{DENIED}/manifests/1")
    assert (answer.status, answer.code) == (403, "DENIED")
    assert answer.json["errors"][0]["message"] == "this mirror is configured not to serve team/secret of docker.io"


async def test_what_is_cached_is_denied_too_and_not_listed(
    registry: TestRegistry, start_mirror: StartMirror, client: MirrorClient
) -> None:
    for repository in (ALLOWED, DENIED):
        await client.pull(repository, "1", IMAGE)
    async with mirror_client(client.mirror.folder, _flags(registry)) as after:
        for path in PATHS.values():
            assert (await after.get(f"/v2/{DENIED}/{path}")).status == 403
        assert (await after.get("/v2/_catalog")).json == {"repositories": [ALLOWED]}
        assert (await after.get(f"/v2/{ALLOWED}/manifests/1")).status == 200


def _flags(registry: TestRegistry) -> dict[str, object]:
    return {"upstreams.docker.io.endpoints": [registry.base_url], **RULES}
