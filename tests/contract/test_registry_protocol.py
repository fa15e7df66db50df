"""What every registry promises its clients, ours, Debian's and the mirror alike.

Spec: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#endpoints
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest
import pytest_asyncio
from multidict import CIMultiDictProxy

from tests.support.images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, digest_of
from tests.support.served import Deviation, Served, Target, by_debian_registry, by_mirror, by_test_registry

pytestmark = pytest.mark.asyncio(loop_scope="module")  # nothing here changes a target: one of each is enough

TARGETS: Mapping[str, Target] = {
    "test-registry": by_test_registry,
    "debian-registry": by_debian_registry,
    "mirror": by_mirror,
}
ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"}
TAGS = ("docker", "docker-list", "oci", "oci-index")
NOWHERE = f"sha256:{'0' * 64}"
ERROR_CODE = re.compile(r"[A-Z_]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that was read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def codes(self) -> list[str]:
        return [error["code"] for error in self.json["errors"]]


class Client:
    """Asks as container clients do: no redirects, nothing decoded, connections kept."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, url: str, *, method: str = "GET", **headers: str) -> Answer:
        wanted = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(method, url, headers=wanted, allow_redirects=False) as response:
            return Answer(status=response.status, headers=response.headers, body=await response.read())

    async def ask_head_of(self, url: str, **headers: str) -> Answer:
        """GET, and leave the body."""
        wanted = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.get(url, headers=wanted) as response:
            return Answer(status=response.status, headers=response.headers, body=b"")


@pytest_asyncio.fixture(params=list(TARGETS), scope="module", loop_scope="module")
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with TARGETS[request.param]() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def client() -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(limit=1)  # a badly framed answer spoils the next one
    async with aiohttp.ClientSession(
        auto_decompress=False, connector=connector, skip_auto_headers=("Accept-Encoding",)
    ) as session:
        yield Client(session)


def skip_if(served: Served, deviation: Deviation) -> None:
    if deviation in served.deviations:
        pytest.skip(deviation.value)


def assert_error(answer: Answer, status: int, *codes: str) -> None:
    """The JSON that clients show to people.

    Spec: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes
    """
    assert answer.status == status
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    assert answer.codes
    assert set(answer.codes) <= set(codes)
    assert all(ERROR_CODE.fullmatch(code) for code in answer.codes)
    assert all(error["message"] for error in answer.json["errors"])


# Ping: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#determining-support


async def test_the_ping_says_that_this_is_a_registry(served: Served, client: Client) -> None:
    answer = await client.ask(f"{served.base_url}/v2/")
    assert answer.status == 200
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert answer.json == {}


async def test_the_ping_can_do_without_its_slash(served: Served, client: Client) -> None:
    answer = await client.ask(f"{served.base_url}/v2")
    if answer.status == 301:
        assert answer.headers["Location"] == "/v2/"
    else:
        assert (answer.status, answer.json) == (200, {})


# Manifests: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_a_manifest_comes_byte_for_byte(served: Served, client: Client, tag: str, by: str) -> None:
    wanted = served.manifests[tag]
    answer = await client.ask(served.url(f"manifests/{tag if by == 'tag' else wanted.digest}"), **ACCEPT)
    assert answer.status == 200
    assert answer.body == wanted.manifest
    assert answer.headers["Content-Type"] == wanted.media_type
    assert answer.headers["Content-Length"] == str(len(wanted.manifest))
    assert answer.headers["Docker-Content-Digest"] == wanted.digest
    assert answer.headers["ETag"] == f'"{wanted.digest}"'
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_head_of_a_manifest_says_what_get_would(served: Served, client: Client, tag: str, by: str) -> None:
    wanted = served.manifests[tag]
    answer = await client.ask(served.url(f"manifests/{tag if by == 'tag' else wanted.digest}"), method="HEAD", **ACCEPT)
    assert answer.status == 200
    assert answer.body == b""
    assert answer.headers["Content-Type"] == wanted.media_type
    assert answer.headers["Content-Length"] == str(len(wanted.manifest))
    assert answer.headers["Docker-Content-Digest"] == wanted.digest


async def test_the_manifests_that_an_index_names_are_there(served: Served, client: Client) -> None:
    for index in served.indexes.values():
        for image in index.images:
            answer = await client.ask(served.url(f"manifests/{image.digest}"), **ACCEPT)
            assert (answer.status, answer.body) == (200, image.manifest)


async def test_containerd_may_ask_for_one_media_type_and_anything(served: Served, client: Client) -> None:
    wanted = served.manifests["oci-index"]
    answer = await client.ask(served.url(f"manifests/{wanted.digest}"), Accept=f"{OCI_INDEX}, */*")
    assert (answer.status, answer.body) == (200, wanted.manifest)


async def test_containerd_may_ask_for_a_range_of_a_manifest(served: Served, client: Client) -> None:
    """It takes 206 or 200, but no ``Content-Range`` on 200."""
    wanted = served.manifests["docker"]
    answer = await client.ask(served.url(f"manifests/{wanted.digest}"), Range="bytes=0-", **ACCEPT)
    assert answer.status in {200, 206}
    assert ("Content-Range" in answer.headers) == (answer.status == 206)
    assert answer.body == wanted.manifest


@pytest.mark.parametrize("tag", TAGS)
async def test_a_client_that_has_the_manifest_gets_304(served: Served, client: Client, tag: str) -> None:
    digest = served.manifests[tag].digest
    answer = await client.ask(served.url(f"manifests/{tag}"), If_None_Match=f'"{digest}"', **ACCEPT)
    assert (answer.status, answer.body) == (304, b"")


async def test_a_client_that_has_another_manifest_gets_this_one(served: Served, client: Client) -> None:
    answer = await client.ask(served.url("manifests/docker"), If_None_Match=f'"{NOWHERE}"', **ACCEPT)
    assert (answer.status, answer.body) == (200, served.manifests["docker"].manifest)


@pytest.mark.parametrize("reference", ["no-such-tag", NOWHERE])
async def test_an_unknown_manifest_is_404(served: Served, client: Client, reference: str) -> None:
    assert_error(await client.ask(served.url(f"manifests/{reference}"), **ACCEPT), 404, "MANIFEST_UNKNOWN")
    head = await client.ask(served.url(f"manifests/{reference}"), method="HEAD", **ACCEPT)
    assert (head.status, head.body) == (404, b"")


async def test_an_unknown_repository_is_404(served: Served, client: Client) -> None:
    url = f"{served.base_url}/v2/no/such/repository/manifests/latest"
    assert_error(await client.ask(url, **ACCEPT), 404, "MANIFEST_UNKNOWN", "NAME_UNKNOWN")


@pytest.mark.parametrize("digest", ["sha256:00", f"sha256:{'A' * 64}", f"md5:{'0' * 32}", f"sha512:{'0' * 64}"])
async def test_a_malformed_digest_of_a_manifest_is_400(served: Served, client: Client, digest: str) -> None:
    skip_if(served, Deviation.LOOSE_DIGESTS)
    assert_error(await client.ask(served.url(f"manifests/{digest}"), **ACCEPT), 400, "DIGEST_INVALID")


async def test_sha512_is_a_digest_like_another(served: Served, client: Client) -> None:
    if served.sha512 is None:
        pytest.skip("the target cannot be given one")
    answer = await client.ask(served.url(f"manifests/{served.sha512.digest}"), **ACCEPT)
    assert (answer.status, answer.body) == (200, served.sha512.manifest)
    assert answer.headers["Docker-Content-Digest"] in {served.sha512.digest, digest_of(served.sha512.manifest)}


# Blobs: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-blobs


async def test_every_blob_of_an_image_comes_byte_for_byte(served: Served, client: Client) -> None:
    for image in served.images.values():
        for blob in image.blobs:
            answer = await client.ask(served.url(f"blobs/{blob.digest}"))
            assert answer.status == 200
            assert answer.body == blob.content
            assert answer.headers["Content-Length"] == str(blob.size_bytes)
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["Docker-Content-Digest"] == blob.digest
            assert answer.headers["ETag"].strip('"') == blob.digest
            assert "Content-Encoding" not in answer.headers


async def test_head_of_a_blob_says_what_get_would(served: Served, client: Client) -> None:
    answer = await client.ask(served.url(f"blobs/{served.layer.digest}"), method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(served.layer.size_bytes)
    assert answer.headers["Docker-Content-Digest"] == served.layer.digest
    assert answer.headers["Accept-Ranges"] == "bytes"


async def test_a_client_that_takes_gzip_gets_the_blob_as_it_is(served: Served, client: Client) -> None:
    answer = await client.ask(served.url(f"blobs/{served.layer.digest}"), Accept_Encoding="zstd, gzip")
    assert "Content-Encoding" not in answer.headers
    assert answer.body == served.layer.content


async def test_a_client_that_has_the_blob_gets_304(served: Served, client: Client) -> None:
    digest = served.layer.digest
    answer = await client.ask(served.url(f"blobs/{digest}"), If_None_Match=f'"{digest}"')
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("bytes=0-", 0, -1),
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("bytes=50000-", 50_000, -1),
        ("bytes=50000-99999999999", 50_000, -1),
        ("bytes=-7", -7, -1),
        ("bytes=-99999999999", 0, -1),
    ],
)
async def test_a_range_is_cut_out(served: Served, client: Client, text: str, first: int, last: int) -> None:
    """RFC 9110 section 14.2, and what resuming clients check: first, last and total."""
    size = served.layer.size_bytes
    first, last = first % size, last % size
    answer = await client.ask(served.url(f"blobs/{served.layer.digest}"), Range=text)
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.headers["Docker-Content-Digest"] == served.layer.digest
    assert answer.body == served.layer.content[first : last + 1]


@pytest.mark.parametrize("start", [0, 1])
async def test_a_range_past_the_end_is_416(served: Served, client: Client, start: int) -> None:
    size = served.layer.size_bytes
    url, text = served.url(f"blobs/{served.layer.digest}"), f"bytes={size + start}-"
    if Deviation.LONG_416 in served.deviations:
        answer = await client.ask_head_of(url, Range=text)
    else:
        answer = await client.ask(url, Range=text)
        assert answer.codes
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{size}"


@pytest.mark.parametrize("text", ["bytes=0-1,5-6", "bytes=0-0, -1"])
async def test_several_ranges_are_the_whole_blob_or_multipart(served: Served, client: Client, text: str) -> None:
    """Anything else fails podman's partial pulls."""
    answer = await client.ask(served.url(f"blobs/{served.layer.digest}"), Range=text)
    if Deviation.MULTIPART in served.deviations:
        assert answer.status == 206
        assert answer.headers["Content-Type"].startswith("multipart/byteranges")
    else:
        assert (answer.status, answer.body) == (200, served.layer.content)


@pytest.mark.parametrize("text", ["bytes=x", "bytes=5-2", "bytes=-", "items=0-5", "bytes"])
async def test_a_range_that_says_nothing_is_ignored(served: Served, client: Client, text: str) -> None:
    skip_if(served, Deviation.STRICT_RANGES)
    answer = await client.ask(served.url(f"blobs/{served.layer.digest}"), Range=text)
    assert (answer.status, answer.body) == (200, served.layer.content)


async def test_if_range_with_the_right_etag_resumes(served: Served, client: Client) -> None:
    url, digest = served.url(f"blobs/{served.layer.digest}"), served.layer.digest
    answer = await client.ask(url, Range="bytes=10-", If_Range=f'"{digest}"')
    assert (answer.status, answer.body) == (206, served.layer.content[10:])


async def test_if_range_with_another_etag_starts_over(served: Served, client: Client) -> None:
    url = served.url(f"blobs/{served.layer.digest}")
    answer = await client.ask(url, Range="bytes=10-", If_Range=f'"{NOWHERE}"')
    assert (answer.status, answer.body) == (200, served.layer.content)


async def test_an_unknown_blob_is_404(served: Served, client: Client) -> None:
    assert_error(await client.ask(served.url(f"blobs/{NOWHERE}")), 404, "BLOB_UNKNOWN")
    head = await client.ask(served.url(f"blobs/{NOWHERE}"), method="HEAD")
    assert (head.status, head.body) == (404, b"")


async def test_a_blob_is_served_only_through_a_repository_that_holds_it(served: Served, client: Client) -> None:
    assert_error(await client.ask(served.url(f"blobs/{served.foreign.digest}")), 404, "BLOB_UNKNOWN")


@pytest.mark.parametrize("digest", ["sha256:00", f"sha256:{'A' * 64}", f"md5:{'0' * 32}"])
async def test_a_malformed_digest_of_a_blob_is_400(served: Served, client: Client, digest: str) -> None:
    assert_error(await client.ask(served.url(f"blobs/{digest}")), 400, "DIGEST_INVALID")


# Tags: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-tags


async def test_tags_are_listed_in_order(served: Served, client: Client) -> None:
    answer = await client.ask(served.url("tags/list"))
    assert answer.status == 200
    assert answer.json["name"] == served.repository
    assert set(TAGS) <= set(answer.json["tags"])
    if Deviation.TAGS_UNPAGED not in served.deviations:
        assert answer.json["tags"] == sorted(answer.json["tags"])
    assert "Link" not in answer.headers


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_of_tags_make_up_the_whole_list(served: Served, client: Client, limit: int) -> None:
    skip_if(served, Deviation.TAGS_UNPAGED)
    whole = (await client.ask(served.url("tags/list"))).json["tags"]
    url: str | None = served.url(f"tags/list?n={limit}")
    seen: list[str] = []
    while url is not None:
        answer = await client.ask(url)
        assert 0 < len(answer.json["tags"]) <= limit
        seen += answer.json["tags"]
        url = next_page(url, answer)
    assert seen == whole


def next_page(url: str, answer: Answer) -> str | None:
    """Read ``Link`` as Docker and podman do: the text before the semicolon, without its brackets."""
    link = answer.headers.get("Link")
    if link is None:
        return None
    target, _, relation = link.partition(";")
    assert relation.strip() == 'rel="next"'
    return urljoin(url, target.strip().strip("<>"))


async def test_no_tags_are_a_page_without_a_next_one(served: Served, client: Client) -> None:
    skip_if(served, Deviation.TAGS_UNPAGED)
    answer = await client.ask(served.url("tags/list?n=0"))
    assert (answer.status, answer.json["tags"]) == (200, [])
    assert "Link" not in answer.headers


async def test_tags_begin_after_the_last_one_seen(served: Served, client: Client) -> None:
    skip_if(served, Deviation.TAGS_UNPAGED)
    answer = await client.ask(served.url("tags/list?last=docker-list"))
    assert answer.json["tags"][:2] == ["oci", "oci-index"]


async def test_tags_of_an_unknown_repository_are_404(served: Served, client: Client) -> None:
    assert_error(await client.ask(f"{served.base_url}/v2/no/such/repository/tags/list"), 404, "NAME_UNKNOWN")


# Referrers: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers


async def test_referrers_name_the_artifact(served: Served, client: Client) -> None:
    skip_if(served, Deviation.NO_REFERRERS)
    answer = await client.ask(served.url(f"referrers/{served.images['docker'].digest}"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert (answer.json["schemaVersion"], answer.json["mediaType"]) == (2, OCI_INDEX)
    (found,) = answer.json["manifests"]
    assert found["digest"] == served.artifact.digest
    assert found["artifactType"] == served.artifact.artifact_type
    assert found["size"] == len(served.artifact.manifest)
    assert found["annotations"] == served.artifact.annotations


async def test_referrers_of_one_type_may_be_asked_for(served: Served, client: Client) -> None:
    """A registry that says it filtered has; one that does not say so has not."""
    skip_if(served, Deviation.NO_REFERRERS)
    path = f"referrers/{served.images['docker'].digest}?artifactType="
    other = await client.ask(served.url(f"{path}application/vnd.example.other"))
    wanted = await client.ask(served.url(f"{path}{served.artifact.artifact_type}"))
    is_filtered = other.headers.get("OCI-Filters-Applied") == "artifactType"
    assert (other.json["manifests"] == []) == is_filtered
    assert [found["digest"] for found in wanted.json["manifests"]] == [served.artifact.digest]


@pytest.mark.parametrize("known", [True, False])
async def test_no_referrers_are_an_empty_index(served: Served, client: Client, known: bool) -> None:  # noqa: FBT001
    skip_if(served, Deviation.NO_REFERRERS)
    answer = await client.ask(served.url(f"referrers/{served.images['oci'].digest if known else NOWHERE}"))
    assert (answer.status, answer.headers["Content-Type"], answer.json["manifests"]) == (200, OCI_INDEX, [])


async def test_a_malformed_digest_of_a_subject_is_400(served: Served, client: Client) -> None:
    skip_if(served, Deviation.NO_REFERRERS)
    assert_error(await client.ask(served.url("referrers/sha256:00")), 400, "DIGEST_INVALID")


async def test_the_artifact_can_be_pulled(served: Served, client: Client) -> None:
    skip_if(served, Deviation.NO_REFERRERS)
    answer = await client.ask(served.url(f"manifests/{served.artifact.digest}"), **ACCEPT)
    assert (answer.status, answer.body) == (200, served.artifact.manifest)
    for blob in served.artifact.blobs:
        assert (await client.ask(served.url(f"blobs/{blob.digest}"))).body == blob.content


# What is no request


@pytest.mark.parametrize(
    "path",
    ["/v2/Upper/case/manifests/latest", "/v2/under__score_/tags/list", "/v2/-dash/blobs/" + NOWHERE],
)
async def test_a_malformed_name_is_refused(served: Served, client: Client, path: str) -> None:
    answer = await client.ask(served.base_url + path)
    if Deviation.TEXT_ERRORS in served.deviations:
        assert answer.status == 404
    else:
        assert_error(answer, 400, "NAME_INVALID")


@pytest.mark.parametrize("path", ["manifests/-latest", f"manifests/{'a' * 129}"])
async def test_a_malformed_tag_is_refused(served: Served, client: Client, path: str) -> None:
    answer = await client.ask(served.url(path))
    assert 400 <= answer.status < 500
    if Deviation.TEXT_ERRORS not in served.deviations:
        assert answer.codes


async def test_an_unknown_endpoint_is_404(served: Served, client: Client) -> None:
    answer = await client.ask(served.url("unknown/endpoint"))
    assert answer.status == 404
    if Deviation.TEXT_ERRORS not in served.deviations:
        assert answer.codes


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["manifests/docker", f"blobs/{NOWHERE}", "blobs/uploads/"])
async def test_who_pulls_only_refuses_to_be_written(served: Served, client: Client, method: str, path: str) -> None:
    skip_if(served, Deviation.WRITABLE)
    assert_error(await client.ask(served.url(path), method=method), 405, "UNSUPPORTED")
