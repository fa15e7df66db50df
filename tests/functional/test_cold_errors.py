"""What cannot be served fails at once, before the status line, in the specification's words; nothing is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.functional.conftest import StartMirror
from tests.support.faults import (
    HTML_PAGE,
    Action,
    ContentType,
    Cut,
    Fault,
    FlipByte,
    Hang,
    Replace,
    Reset,
    Status,
)
from tests.support.images import OCI_MANIFEST, docker_image, oci_index
from tests.support.pulling import Answer, MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
IMAGE = docker_image(1)
NEGATIVE_SECONDS = 10
CHALLENGE = {"WWW-Authenticate": 'Basic realm="who are you?"'}
PATHS = {
    "tag": (f"/v2/{NAME}/manifests/latest", "MANIFEST_UNKNOWN"),
    "digest": (f"/v2/{NAME}/manifests/{IMAGE.digest}", "MANIFEST_UNKNOWN"),
    "blob": (f"/v2/{NAME}/blobs/{IMAGE.config.digest}", "BLOB_UNKNOWN"),
    "tags": (f"/v2/{NAME}/tags/list", "NAME_UNKNOWN"),
    "referrers": (f"/v2/{NAME}/referrers/{IMAGE.digest}", "NAME_UNKNOWN"),
}
everywhere = pytest.mark.parametrize("what", PATHS)


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "latest", IMAGE)
    return registry


def stored(folder: Path) -> list[str]:
    """Return the content in a cache folder, complete or not."""
    files = [path for part in ("blobs", "partial") for path in (folder / part).rglob("*")]
    return [path.name for path in files if path.is_file()]


def assert_refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert "WWW-Authenticate" not in answer.headers
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert answer.headers["X-Request-Id"]


# Refusals are answers


@everywhere
@pytest.mark.parametrize(("theirs", "ours"), [(401, 404), (403, 403), (404, 404)])
async def test_a_refusal_never_challenges_the_client(
    registry: TestRegistry, client: MirrorClient, what: str, theirs: int, ours: int
) -> None:
    """A challenge would make Docker send its Docker Hub password here."""
    path, unknown = PATHS[what]
    registry.fail(Fault(action=Status(status=theirs, code="UNAUTHORIZED", headers=CHALLENGE if theirs == 401 else {})))
    assert_refused(await client.get(path), ours, "DENIED" if ours == 403 else unknown)
    assert stored(client.mirror.folder) == []


@pytest.mark.parametrize("what", ["tag", "digest", "blob"])
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_is_remembered_for_a_moment_and_forgotten(
    registry: TestRegistry, client: MirrorClient, what: str, status: int
) -> None:
    path, _ = PATHS[what]
    registry.fail(Fault(action=Status(status=status)))
    first = await client.get(path)
    registry.heal()
    registry.reset_record()
    second = await client.get(path)
    assert (second.status, second.code) == (first.status, first.code)
    assert second.cache_status.startswith("mirror; hit; ttl=")
    assert second.cache_status.endswith("; detail=negative")
    assert registry.requests == []
    client.mirror.clock.advance(NEGATIVE_SECONDS)
    assert (await client.get(path)).status == 200


# Outages


@everywhere
@pytest.mark.parametrize(
    ("action", "status"),
    [
        (Status(status=500), 502),
        (Status(status=503, body=HTML_PAGE, headers={"Content-Type": "text/html"}), 502),
        (Status(status=302), 502),
        (Reset(after_bytes=0), 504),
    ],
)
async def test_an_outage_is_said_at_once_and_not_remembered(
    registry: TestRegistry, client: MirrorClient, what: str, action: Action, status: int
) -> None:
    path, _ = PATHS[what]
    registry.fail(Fault(action=action))
    answer = await client.get(path)
    assert_refused(answer, status, "UNAVAILABLE")
    assert answer.seconds < 1
    assert stored(client.mirror.folder) == []
    registry.heal()
    assert (await client.get(path)).status == 200


@everywhere
async def test_a_rate_limit_is_503_with_the_time_to_wait(
    registry: TestRegistry, client: MirrorClient, what: str
) -> None:
    """Not 429: containerd asks again at once, podman sleeps; both turn to the next mirror on 503."""
    path, _ = PATHS[what]
    registry.fail(Fault(action=Status(status=429, code="TOOMANYREQUESTS", headers={"Retry-After": "17"})))
    answer = await client.get(path)
    assert_refused(answer, 503, "TOOMANYREQUESTS")
    assert answer.headers["Retry-After"] == "17"
    registry.heal()
    registry.reset_record()
    client.mirror.clock.advance(10)
    answer = await client.get(path)
    assert_refused(answer, 503, "TOOMANYREQUESTS")
    assert answer.headers["Retry-After"] == "7"
    assert registry.requests == []  # what it asked for is kept to
    client.mirror.clock.advance(7)
    assert (await client.get(path)).status == 200


async def test_a_rate_limit_that_tells_no_time_is_503_too(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Status(status=429, body=b"429 Too Many Requests")))
    answer = await client.get(PATHS["tag"][0])
    assert_refused(answer, 503, "TOOMANYREQUESTS")
    assert math.isfinite(float(answer.headers.get("Retry-After", "0")))


@everywhere
async def test_an_upstream_that_is_gone_is_504_at_once(registry: TestRegistry, client: MirrorClient, what: str) -> None:
    path, _ = PATHS[what]
    await registry.stop()
    answer = await client.get(path)
    assert_refused(answer, 504, "UNAVAILABLE")
    assert answer.seconds < 1
    await registry.start()
    assert (await client.get(path)).status == 200


@pytest.mark.parametrize("what", ["tag", "blob"])
async def test_an_upstream_that_hangs_is_504_when_its_time_is_up(
    registry: TestRegistry, start_mirror: StartMirror, what: str
) -> None:
    path, _ = PATHS[what]
    client = await start_mirror(registry.base_url, overrides={"upstreams.docker.io.read_timeout": "1s"})
    registry.fail(Fault(action=Hang()))
    answer = await client.get(path)
    assert_refused(answer, 504, "UNAVAILABLE")
    assert answer.seconds < 1.5
    registry.heal()
    assert (await client.get(path)).status == 200


async def test_a_head_fails_with_the_same_status_and_no_body(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Status(status=500)))
    answer = await client.head(PATHS["tag"][0])
    assert (answer.status, answer.body) == (502, b"")


# Content that is not what was asked for


WRONG: Mapping[str, Action] = {
    "a page": Replace(),
    "a page with a manifest's type": Replace(content_type=None),
    "another manifest": Replace(body=docker_image(2).manifest, content_type=None),
    "a changed byte": FlipByte(position=40),
    "no manifest": Replace(body=b'{"schemaVersion":1}', content_type=None),
    "a list": Replace(body=b"[]", content_type=None),
    "deep nesting": Replace(body=b"[" * 100_000, content_type=None),
    "too much": Replace(body=b'{"schemaVersion":2,"x":"' + b"x" * (4 << 20) + b'"}', content_type=None),
    "nothing": Replace(body=b"", content_type=None),
    "half of it": Cut(),
    "encoded": Status(
        status=200, body=b"\x1f\x8b", headers={"Content-Encoding": "gzip", "Content-Type": IMAGE.media_type}
    ),
}


@pytest.mark.parametrize("what", ["tag", "digest"])
@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_manifest_is_an_error_and_is_not_stored(
    registry: TestRegistry, client: MirrorClient, what: str, wrong: str
) -> None:
    path, _ = PATHS[what]
    registry.fail(Fault(action=WRONG[wrong], kind="manifest", method="GET"))
    answer = await client.get(path)
    assert answer.status in {502, 504}
    assert_refused(answer, answer.status, "UNAVAILABLE")
    assert stored(client.mirror.folder) == []
    registry.heal()
    healed = await client.get(path)
    assert (healed.status, healed.body) == (200, IMAGE.manifest)


async def test_a_page_in_place_of_everything_is_no_manifest(registry: TestRegistry, client: MirrorClient) -> None:
    """A captive portal answers HEAD as well."""
    registry.fail(Fault(action=Status(status=200, body=HTML_PAGE, headers={"Content-Type": "text/html"})))
    for path in (PATHS["tag"][0], PATHS["tags"][0], PATHS["referrers"][0]):
        assert_refused(await client.get(path), 502, "UNAVAILABLE")
    assert stored(client.mirror.folder) == []


async def test_a_digest_header_that_lies_is_an_error(registry: TestRegistry, client: MirrorClient) -> None:
    """The registry gives another digest than that of the body, on HEAD and GET alike."""
    headers = {"Content-Type": IMAGE.media_type, "Docker-Content-Digest": f"sha256:{'0' * 64}"}
    registry.fail(Fault(action=Status(status=200, body=IMAGE.manifest, headers=headers)))
    assert_refused(await client.get(PATHS["tag"][0]), 502, "UNAVAILABLE")
    assert stored(client.mirror.folder) == []


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "application/octet-stream", "nonsense"])
async def test_a_right_manifest_of_a_wrong_type_is_served_by_its_own(
    registry: TestRegistry, client: MirrorClient, content_type: str
) -> None:
    registry.fail(Fault(action=ContentType(value=content_type)))
    for path in (PATHS["tag"][0], PATHS["digest"][0]):
        answer = await client.get(path)
        assert (answer.status, answer.body) == (200, IMAGE.manifest)
        assert answer.headers["Content-Type"] == IMAGE.media_type


async def test_a_body_that_is_two_kinds_at_once_is_an_error(registry: TestRegistry, client: MirrorClient) -> None:
    """Readers would disagree about what it is: CVE-2021-41190."""
    both = b'{"schemaVersion":2,"config":{},"layers":[{}],"manifests":[{}]}'
    digest = registry.add_manifest(NAME, "both", both, OCI_MANIFEST)
    for reference in ("both", digest):
        assert_refused(await client.get(f"/v2/{NAME}/manifests/{reference}"), 502, "UNAVAILABLE")
    assert stored(client.mirror.folder) == []


async def test_a_platform_that_the_index_names_and_the_upstream_lacks_is_404(
    registry: TestRegistry, client: MirrorClient
) -> None:
    index = oci_index(3)
    registry.add(NAME, "index", index)
    registry.delete(NAME, index.images[1].digest)
    assert (await client.get(f"/v2/{NAME}/manifests/index")).status == 200
    assert_refused(await client.get(f"/v2/{NAME}/manifests/{index.images[1].digest}"), 404, "MANIFEST_UNKNOWN")
