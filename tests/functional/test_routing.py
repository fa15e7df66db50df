"""Which upstream and repository a request means, and what is answered beside images: lists, search, health."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit

import pytest

from tests.functional.conftest import StartMirror
from tests.support.faults import Fault, Status
from tests.support.images import OCI_INDEX, artifact, docker_image, oci_image
from tests.support.pulling import ACCEPT, MirrorClient
from tests.support.registry import TestRegistry

HUB_IMAGE, OTHER_IMAGE = docker_image(1), oci_image(2)
OTHER = "ghcr.io"


@pytest.fixture
async def other() -> AsyncIterator[TestRegistry]:
    async with TestRegistry() as started:
        started.add("owner/app", "1", OTHER_IMAGE)
        started.add("single", "1", OTHER_IMAGE)
        yield started


@pytest.fixture
async def client(registry: TestRegistry, other: TestRegistry, start_mirror: StartMirror) -> MirrorClient:
    registry.add("library/app", "1", HUB_IMAGE)
    registry.add("owner/app", "1", HUB_IMAGE)
    upstreams = {"docker.io": registry.base_url, OTHER: other.base_url}
    return await start_mirror(upstreams=upstreams, overrides={f"upstreams.{OTHER}.hostnames": ["ghcr.mirror.test"]})


# Which upstream


@pytest.mark.parametrize(
    ("path", "repository"),
    [
        ("/v2/app/manifests/1", "library/app"),
        ("/v2/library/app/manifests/1", "library/app"),
        ("/v2/owner/app/manifests/1", "owner/app"),
        ("/v2/docker.io/app/manifests/1", "library/app"),
        ("/docker.io/v2/app/manifests/1", "library/app"),
        ("/docker.io/v2/library/app/manifests/1", "library/app"),
        ("/v2/app/manifests/1?ns=docker.io", "library/app"),
        ("/v2/docker.io/owner/app/manifests/1?ns=docker.io", "owner/app"),
    ],
)
async def test_the_default_is_meant(registry: TestRegistry, client: MirrorClient, path: str, repository: str) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.body) == (200, HUB_IMAGE.manifest)
    assert {request.repository for request in registry.requests} == {repository}


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/v2/ghcr.io/owner/app/manifests/1", "mirror.test"),
        ("/ghcr.io/v2/owner/app/manifests/1", "mirror.test"),
        ("/v2/owner/app/manifests/1?ns=ghcr.io", "mirror.test"),
        ("/v2/ghcr.io/owner/app/manifests/1?ns=ghcr.io", "mirror.test"),  # BuildKit with a mirror's path
        ("/v2/single/manifests/1?ns=ghcr.io", "mirror.test"),
        ("/v2/ghcr.io/single/manifests/1", "mirror.test"),
        ("/v2/owner/app/manifests/1", "ghcr.mirror.test"),
        ("/v2/owner/app/manifests/1", "ghcr.mirror.test:5000"),
        ("/v2/owner/app/manifests/1", "GHCR.mirror.test"),
        ("/docker.io/v2/owner/app/manifests/1?ns=ghcr.io", "mirror.test"),  # ns is said by the client's code
    ],
)
async def test_another_upstream_is_meant(
    registry: TestRegistry, other: TestRegistry, client: MirrorClient, path: str, host: str
) -> None:
    answer = await client.ask(path, headers={**ACCEPT, "Host": host})
    assert (answer.status, answer.body) == (200, OTHER_IMAGE.manifest)
    assert registry.requests == []
    assert {request.repository for request in other.requests} <= {"owner/app", "single"}


@pytest.mark.parametrize("is_asked", [True, False])
async def test_the_answer_names_the_namespace_that_was_asked_for(client: MirrorClient, is_asked: bool) -> None:  # noqa: FBT001
    answer = await client.get(f"/v2/ghcr.io/owner/app/manifests/1{'?ns=ghcr.io' if is_asked else ''}")
    assert answer.headers.get("OCI-Namespace") == ("ghcr.io" if is_asked else None)


async def test_a_default_that_is_not_docker_hub_gets_library_only_where_nobody_named_it(
    other: TestRegistry, start_mirror: StartMirror
) -> None:
    other.add("library/app", "1", OTHER_IMAGE)
    client = await start_mirror(upstreams={"own.test": other.base_url}, overrides={"upstreams.own.test.default": True})
    for path in ("/v2/app/manifests/1", "/v2/single/manifests/1?ns=own.test", "/v2/own.test/single/manifests/1"):
        assert (await client.get(path)).status == 200
    assert {request.repository for request in other.requests} == {"library/app", "single"}


@pytest.mark.parametrize(
    "path",
    [
        "/v2/evil.example/owner/app/manifests/1",
        "/v2/owner/app/manifests/1?ns=evil.example",
        "/v2/app/manifests/1?ns=localhost",
        "/evil.example/v2/owner/app/manifests/1",
        "/v2/registry-1.docker.io/library/app/manifests/1",
    ],
)
async def test_an_upstream_that_is_not_configured_is_404_and_named(
    registry: TestRegistry, other: TestRegistry, client: MirrorClient, path: str
) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    assert (registry.requests, other.requests) == ([], [])
    assert "fwd" not in answer.cache_status  # nobody was asked


async def test_the_same_name_in_two_upstreams_is_two_repositories(client: MirrorClient) -> None:
    for _ in range(2):
        assert (await client.get("/v2/owner/app/manifests/1")).body == HUB_IMAGE.manifest
        assert (await client.get("/v2/ghcr.io/owner/app/manifests/1")).body == OTHER_IMAGE.manifest


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/ghcr.io/v2/", "/v2/?ns=ghcr.io"])
async def test_the_ping_needs_no_upstream(
    registry: TestRegistry, other: TestRegistry, client: MirrorClient, path: str
) -> None:
    await registry.stop()
    await other.stop()
    answer = await client.get(path)
    assert (answer.status, answer.body) == (200, b"{}")


# Headers of every answer


@pytest.mark.parametrize(
    "path",
    [
        "/v2/",
        "/v2/app/manifests/1",
        "/v2/app/manifests/none",
        f"/v2/app/blobs/{HUB_IMAGE.config.digest}",
        "/v2/app/tags/list",
        "/v2/_catalog",
        "/v2/UPPER/tags/list",
        "/v2/evil.example/app/tags/list",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_every_answer_carries_version_request_id_and_cache_status(
    client: MirrorClient, path: str, method: str
) -> None:
    answer = await client.ask(path, method=method)
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert answer.cache_status.partition(";")[0] == "mirror"
    again = await client.ask(path, method=method)
    assert len({answer.headers["X-Request-Id"], again.headers["X-Request-Id"], ""}) == 3


# Tags


async def follow(client: MirrorClient, path: str, key: str) -> list[str]:
    """Read a list page by page, as Docker and podman follow a ``Link``."""
    seen: list[str] = []
    while True:
        answer = await client.get(path)
        assert answer.status == 200
        seen += answer.json[key]
        if "Link" not in answer.headers:
            return seen
        target, _, relation = answer.headers["Link"].partition(";")
        assert relation.strip() == 'rel="next"'
        url = urlsplit(urljoin(path, target.strip("<>")))
        path = f"{url.path}?{url.query}"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/owner/app/tags/list?n=2&ns=ghcr.io",
        "/v2/ghcr.io/owner/app/tags/list?n=2",
        "/ghcr.io/v2/owner/app/tags/list?n=2",
    ],
)
async def test_pages_of_tags_stay_with_their_upstream(other: TestRegistry, client: MirrorClient, path: str) -> None:
    for number in range(2, 6):
        other.add("owner/app", str(number), OTHER_IMAGE)
    assert await follow(client, path, "tags") == ["1", "2", "3", "4", "5"]


async def test_a_list_of_tags_bears_the_name_that_the_client_used(client: MirrorClient) -> None:
    for name in ("app", "library/app", "ghcr.io/owner/app"):
        answer = await client.get(f"/v2/{name}/tags/list")
        assert answer.json == {"name": name, "tags": ["1"]}
        assert answer.cache_status == "mirror; fwd=bypass"


# Referrers


async def test_referrers_are_remembered_like_a_tag(registry: TestRegistry, client: MirrorClient) -> None:
    registry.add("library/app", None, artifact(HUB_IMAGE))
    path = f"/v2/app/referrers/{HUB_IMAGE.digest}"
    first, second = await client.get(path), await client.get(path)
    assert first.json == second.json
    assert [one["digest"] for one in first.json["manifests"]] == [artifact(HUB_IMAGE).digest]
    assert first.headers["Content-Type"] == OCI_INDEX
    assert first.cache_status == "mirror; fwd=uri-miss; fwd-status=200; stored"
    assert second.cache_status == "mirror; hit"
    assert registry.count(kind="referrers") == 1
    registry.add("library/app", None, artifact(HUB_IMAGE, 2))
    client.mirror.clock.advance(61)
    third = await client.get(path)
    assert len(third.json["manifests"]) == 2
    assert third.cache_status == "mirror; fwd=stale; fwd-status=200"


async def test_referrers_of_one_type_come_from_the_one_list(registry: TestRegistry, client: MirrorClient) -> None:
    wanted = artifact(HUB_IMAGE, 1, artifact_type="application/vnd.example.sbom+json")
    for one in (wanted, artifact(HUB_IMAGE, 2)):
        registry.add("library/app", None, one)
    path = f"/v2/app/referrers/{HUB_IMAGE.digest}"
    whole = await client.get(path)
    filtered = await client.get(f"{path}?artifactType=application/vnd.example.sbom%2Bjson")
    assert len(whole.json["manifests"]) == 2
    assert "OCI-Filters-Applied" not in whole.headers
    assert [one["digest"] for one in filtered.json["manifests"]] == [wanted.digest]
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert registry.count(kind="referrers") == 1


async def test_referrers_on_many_pages_come_as_one_list(registry: TestRegistry, client: MirrorClient) -> None:
    for seed in range(5):
        registry.add("library/app", None, artifact(HUB_IMAGE, seed))
    registry.referrers_page = 2
    answer = await client.get(f"/v2/app/referrers/{HUB_IMAGE.digest}")
    assert len(answer.json["manifests"]) == 5
    assert "Link" not in answer.headers
    assert registry.count(kind="referrers") == 3


async def test_a_list_of_referrers_without_end_is_given_up(registry: TestRegistry, client: MirrorClient) -> None:
    for seed in range(101):
        registry.add("library/app", None, artifact(HUB_IMAGE, seed))
    registry.referrers_page = 1
    answer = await client.get(f"/v2/app/referrers/{HUB_IMAGE.digest}")
    assert (answer.status, registry.count(kind="referrers")) == (502, 100)


async def test_a_registry_without_referrers_says_404_for_the_client_to_fall_back(
    registry: TestRegistry, client: MirrorClient
) -> None:
    registry.has_referrers = False
    answer = await client.get(f"/v2/app/referrers/{HUB_IMAGE.digest}")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


# Catalog


async def test_the_catalog_is_what_is_cached_page_by_page(client: MirrorClient) -> None:
    assert (await client.get("/v2/_catalog")).json == {"repositories": []}
    for path in ("app", "owner/app", "ghcr.io/owner/app", "ghcr.io/single"):
        assert (await client.get(f"/v2/{path}/manifests/1")).status == 200
    whole = (await client.get("/v2/_catalog")).json["repositories"]
    assert sorted(whole) == ["ghcr.io/owner/app", "ghcr.io/single", "library/app", "owner/app"]
    for limit in (1, 2, 3):
        assert await follow(client, f"/v2/_catalog?n={limit}", "repositories") == whole


async def test_every_name_in_the_catalog_can_be_pulled_and_be_a_page_s_last(client: MirrorClient) -> None:
    for path in ("app", "owner/app", "ghcr.io/owner/app"):
        await client.get(f"/v2/{path}/manifests/1")
    whole = (await client.get("/v2/_catalog")).json["repositories"]
    for position, name in enumerate(whole):
        assert (await client.get(f"/v2/{name}/manifests/1")).status == 200
        rest = await client.get(f"/v2/_catalog?last={name}")
        assert rest.json["repositories"] == whole[position + 1 :]


async def test_what_an_upstream_did_not_have_is_not_in_the_catalog(client: MirrorClient) -> None:
    for number in range(5):
        await client.get(f"/v2/none/app{number}/manifests/1")
    assert (await client.get("/v2/_catalog")).json == {"repositories": []}


# Search


async def test_docker_search_is_answered_through_the_default(registry: TestRegistry, client: MirrorClient) -> None:
    answer = await client.get("/v1/search?q=app&n=1")
    assert answer.status == 200
    assert [one["name"] for one in answer.json["results"]] == ["library/app"]
    (asked,) = registry.requests
    assert (asked.path, dict(asked.query)) == ("/v1/search", {"q": "app", "n": "1"})


async def test_docker_is_told_not_to_send_a_password_with_its_search(client: MirrorClient) -> None:
    """Docker sends the user's password to a "standalone" registry."""
    answer = await client.get("/v1/_ping")
    assert (answer.status, answer.json) == (200, {"standalone": False})
    assert answer.headers["X-Docker-Registry-Standalone"] == "false"


@pytest.mark.parametrize("query", ["", "?q=", f"?q={'a' * 300}", "?q=app&n=x"])
async def test_a_search_for_nothing_is_400(registry: TestRegistry, client: MirrorClient, query: str) -> None:
    assert (await client.get(f"/v1/search{query}")).status == 400
    assert registry.requests == []


async def test_a_search_that_fails_says_so(registry: TestRegistry, client: MirrorClient) -> None:
    for status, ours in ((429, 503), (500, 502), (404, 404)):
        registry.fail(Fault(action=Status(status=status), kind="search", times=1))
        assert (await client.get("/v1/search?q=app")).status == ours
    await registry.stop()
    assert (await client.get("/v1/search?q=app")).status == 504


async def test_a_default_without_search_says_that_it_has_none(other: TestRegistry, start_mirror: StartMirror) -> None:
    client = await start_mirror(upstreams={"own.test": other.base_url}, overrides={"upstreams.own.test.default": True})
    answer = await client.get("/v1/search?q=app")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    assert "Allow" not in answer.headers  # GET is what it was


# Health


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_the_mirror_is_well_without_its_upstreams(
    registry: TestRegistry, other: TestRegistry, client: MirrorClient, path: str
) -> None:
    await registry.stop()
    await other.stop()
    assert (await client.get("/v2/app/manifests/1")).status == 504
    assert (await client.get(path)).status == 200


async def test_a_store_that_cannot_be_written_is_unready_and_alive(client: MirrorClient) -> None:
    shutil.rmtree(client.mirror.folder / "partial")
    unready = await client.get("/readyz")
    assert unready.status == 503
    assert b"cannot write" in unready.body
    assert (await client.get("/healthz")).status == 200
    (client.mirror.folder / "partial").mkdir()
    assert (await client.get("/readyz")).status == 200


async def test_being_asked_for_readiness_leaves_nothing_behind(client: MirrorClient) -> None:
    await client.get("/readyz")
    assert list((client.mirror.folder / "partial").iterdir()) == []


async def test_pulls_go_on_while_nothing_can_be_stored(registry: TestRegistry, client: MirrorClient) -> None:
    """The store's trouble is not the client's."""
    for folder in ("partial", "blobs"):
        shutil.rmtree(client.mirror.folder / folder)
    for _ in range(2):
        answer = await client.get("/v2/app/manifests/1")
        assert (answer.status, answer.body) == (200, HUB_IMAGE.manifest)
    assert registry.count(kind="manifest", method="GET") >= 1
