"""Paths that no client of good will sends: 4xx in the specification's JSON, and the upstream hears nothing of them."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.images import docker_image, oci_image
from tests.support.mirrors import RunningMirror
from tests.support.pulling import MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
ZEROS = "0" * 64
CODES = {"NAME_INVALID", "NAME_UNKNOWN", "DIGEST_INVALID", "MANIFEST_INVALID", "UNSUPPORTED"}
LONG_NAME = "/".join(["abcdefghi"] * 26)

TARGETS = [
    # out of the tree
    "/v2/../../etc/passwd/manifests/latest",
    "/v2/library/../../../etc/passwd",
    "/v2/library/./app/manifests/latest",
    "/v2/library/app/manifests/../../../../etc/passwd",
    "/v2/library/app/blobs/../../../etc/shadow",
    "/v2/library/app/manifests/..",
    "/v2/library/%2e%2e/app/manifests/latest",
    "/v2/%2e%2e%2f%2e%2e%2fetc%2fpasswd/manifests/latest",
    "/v2/library/app/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd",
    "/v2/library%2fapp/manifests/latest",
    "/v2/library%5capp/manifests/latest",
    "/v2/library\\app/manifests/latest",
    "/v2/library%252fapp/manifests/latest",
    "/v2/library/%252e%252e/manifests/latest",
    "/..%2fv2/library/app/manifests/latest",
    "//v2/library/app/manifests/latest",
    "/v2//library/app/manifests/latest",
    "/v2/library//app/manifests/latest",
    "/v2/library/app//manifests/latest",
    "/v2/library/app/manifests//latest",
    "/v2/library/app/manifests/latest/",
    "/v2/library/app/manifests/",
    "/v2/manifests/latest",
    "/v2//manifests/latest",
    # characters that are none of a name's
    "/v2/library/app%00/manifests/latest",
    "/v2/library/app/manifests/latest%00.json",
    "/v2/library/app/manifests/%0d%0aX-Injected:%20yes",
    "/v2/library/app%0a/manifests/latest",
    "/v2/library/app%20/manifests/latest",
    "/v2/library/%c3%a4pp/manifests/latest",
    "/v2/library/%ff%fe/manifests/latest",
    "/v2/library/app/manifests/%e2%80%ae",
    "/v2/library/app/manifests/lat%zzest",
    "/v2/library/app/manifests/%",
    "/v2/Library/App/manifests/latest",
    "/v2/library/-app/manifests/latest",
    "/v2/library/app_/manifests/latest",
    "/v2/library/a...b/manifests/latest",
    "/v2/library/a___b/manifests/latest",
    "/v2/library/app:80/manifests/latest",
    "/v2/library/app@sha256/manifests/latest",
    "/v2/library/~app/manifests/latest",
    "/v2/library/$(id)/manifests/latest",
    "/v2/library/app/manifests/-latest",
    "/v2/library/app/manifests/.latest",
    "/v2/library/app/manifests/la+test",
    # too long
    f"/v2/{LONG_NAME}/manifests/latest",
    f"/v2/library/app/manifests/{'a' * 129}",
    f"/v2/library/app/manifests/sha256:{'a' * 4000}",
    # digests that are none
    "/v2/library/app/blobs/latest",
    "/v2/library/app/blobs/sha256:",
    "/v2/library/app/blobs/sha256:0",
    f"/v2/library/app/blobs/sha256:{ZEROS}0",
    f"/v2/library/app/blobs/sha256:{'A' * 64}",
    f"/v2/library/app/blobs/sha256:{'g' * 64}",
    f"/v2/library/app/blobs/SHA256:{ZEROS}",
    f"/v2/library/app/blobs/md5:{'0' * 32}",
    f"/v2/library/app/blobs/sha512:{ZEROS}",
    f"/v2/library/app/blobs/sha256-{ZEROS}",
    f"/v2/library/app/blobs/sha256:{ZEROS}%0a",
    f"/v2/library/app/blobs/{ZEROS}",
    f"/v2/library/app/manifests/sha1:{'0' * 40}",
    f"/v2/library/app/manifests/sha256:sha256:{ZEROS}",
    "/v2/library/app/referrers/latest",
    # upstreams that are none of ours
    "/v2/library/app/manifests/latest?ns=169.254.169.254",
    "/v2/library/app/manifests/latest?ns=127.0.0.1:9",
    "/v2/library/app/manifests/latest?ns=docker.io:443",
    "/v2/library/app/manifests/latest?ns=docker.io%2F..%2Fevil",
    "/v2/library/app/manifests/latest?ns=docker.io%00",
    "/v2/library/app/manifests/latest?ns=evil.example&ns=docker.io",
    "/v2/library/app/manifests/latest?ns=http://evil.example/",
    "/v2/library/app/manifests/latest?ns=%ff",
    "/v2/library/app/manifests/latest?ns=DOCKER.IO",
    "/v2/169.254.169.254/latest/manifests/latest",
    "/v2/127.0.0.1:9/app/manifests/latest",
    "/v2/evil.example/app/manifests/latest",
    "/v2/evil.example:5000/app/manifests/latest?ns=docker.io",
    "/v2/user@docker.io/app/manifests/latest",
    "/evil.example/v2/library/app/manifests/latest",
    "http://169.254.169.254/latest/meta-data/",
    "http://evil.example/v2/evil.example/app/manifests/latest",
    # endpoints that are none
    "/v2/library/app",
    "/v2/library/app/manifest/latest",
    "/v2/library/app/tags/none",
    "/v2/library/app/_layers/sha256/x/link",
    "/v2/_catalog/x",
    "/v2x/library/app/manifests/latest",
    "/v1/repositories/library/app/tags",
    "/v3/",
    "/latest/meta-data/",
    "/.git/config",
    "/index.php?-d+allow_url_include=1",
    # lists with nonsense
    "/v2/library/app/tags/list?n=-1",
    "/v2/library/app/tags/list?n=1e9",
    "/v2/library/app/tags/list?n=99999999999999999999",
    "/v2/library/app/tags/list?n=%d9%a1",
    "/v2/library/app/tags/list?last=%0d%0aX-Injected:%20yes",
    f"/v2/library/app/tags/list?last={'a' * 300}",
    f"/v2/library/app/referrers/sha256:{ZEROS}?artifactType=%0d%0ax",
    "/v2/library/app/tags/list?" + "&".join(f"a{number}=1" for number in range(100)),
]
NOT_HTTP = {
    "no method": b"/v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a raw NUL": b"GET /v2/library/app\x00/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw bytes": b"GET /v2/library/\xff\xfe/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    "a raw umlaut": "GET /v2/library/äpp/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "a space in the path": b"GET /v2/library/a pp/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    "a control character": b"GET /v2/library/a\x01pp/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bare line feed": b"GET /v2/library/a\npp/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    "an over-long target": b"GET /v2/" + b"a" * 10_000 + b"/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    "an over-long header": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
    "two lengths": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length and chunks": (
        b"POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a header without a name": b"GET /v2/ HTTP/1.1\r\n: x\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    """Would answer, if it were asked: a refusal can only be the mirror's."""
    registry.add(NAME, "latest", docker_image(1))
    registry.add("app", "latest", oci_image(2))
    return registry


async def send(mirror: RunningMirror, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Write bytes to a fresh connection; return status, headers and body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", mirror.port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()
        await writer.wait_closed()
    return int(status_line.split(" ", 2)[1]), headers, body


def assert_error(status: int, headers: dict[str, str], body: bytes, statuses: range | set[int]) -> None:
    assert status in statuses
    assert headers["content-type"].startswith("application/json")
    assert headers["docker-distribution-api-version"] == "registry/2.0"
    assert "x-injected" not in headers
    (error,) = json.loads(body)["errors"]
    assert error["code"] in CODES
    assert error["message"].isascii()
    assert error["message"].isprintable()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:60])
async def test_a_hostile_path_is_refused_and_goes_no_further(
    registry: TestRegistry, client: MirrorClient, target: str
) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: mirror.test\r\n\r\n".encode()
    assert_error(*await send(client.mirror, request), range(400, 500))
    assert registry.requests == []


@pytest.mark.parametrize("name", NOT_HTTP)
async def test_what_is_no_http_is_refused_in_the_same_words(
    registry: TestRegistry, client: MirrorClient, name: str
) -> None:
    assert_error(*await send(client.mirror, NOT_HTTP[name]), range(400, 500))
    assert registry.requests == []


@pytest.mark.parametrize("host", ["", "Host: 169.254.169.254\r\n", "Host: evil.example:80\r\n", "Host: \x7f\xc3\r\n"])
async def test_a_host_header_leads_nowhere_else(registry: TestRegistry, client: MirrorClient, host: str) -> None:
    request = f"GET /v2/{NAME}/manifests/latest HTTP/1.0\r\n{host}\r\n".encode()
    status, _, _ = await send(client.mirror, request)
    assert status in {200, 400}
    assert all(recorded.headers["Host"] == registry.host for recorded in registry.requests)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MKCOL", "QUERY"])
@pytest.mark.parametrize(
    "path", ["/v2/", f"/v2/{NAME}/manifests/latest", f"/v2/{NAME}/blobs/uploads/", "/v2/../x", "/anything", "/"]
)
async def test_methods_that_write_are_405(registry: TestRegistry, client: MirrorClient, method: str, path: str) -> None:
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody".encode()
    status, headers, body = await send(client.mirror, request)
    assert_error(status, headers, body, {405})
    assert headers["allow"] == "GET, HEAD"
    assert json.loads(body)["errors"][0]["code"] == "UNSUPPORTED"
    assert "pull-through mirror" in json.loads(body)["errors"][0]["message"]
    assert registry.requests == []


@pytest.mark.parametrize("request_line", ["CONNECT 169.254.169.254:80", "OPTIONS *", "get /v2/", "G\u00c4T /v2/"])
async def test_other_forms_of_a_request_line_are_refused(
    registry: TestRegistry, client: MirrorClient, request_line: str
) -> None:
    request = f"{request_line} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert_error(*await send(client.mirror, request), {400, 405})
    assert registry.requests == []


async def test_a_body_with_a_get_is_not_taken_for_the_next_request(
    registry: TestRegistry, client: MirrorClient
) -> None:
    smuggled = b"GET /v2/library/app/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n"
    head = f"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(smuggled)}\r\n\r\n".encode()
    status, _, body = await send(client.mirror, head + smuggled)
    assert (status, body) == (200, b"{}")
    assert registry.requests == []


async def test_a_client_cannot_write_lines_into_the_log_or_the_upstreams_request(
    registry: TestRegistry, client: MirrorClient
) -> None:
    """What is passed on is built anew from what was parsed: of the client's headers nothing goes upstream."""
    headers = {
        "Authorization": "Basic c2VjcmV0OnNlY3JldA==",
        "Cookie": "secret=1",
        "X-Forwarded-For": "10.0.0.1",
        "Range": "bytes=0-5",
        "If-None-Match": '"x"',
        "Accept-Encoding": "gzip",
        "User-Agent": "evil",
        "Via": "1.1 evil",
        "X-Request-Id": "evil",
    }
    await client.ask(f"/v2/{NAME}/manifests/latest", headers=headers)
    built = {"host", "accept", "accept-encoding", "user-agent", "x-request-id"}
    assert registry.requests != []
    for recorded in registry.requests:
        assert {name.lower() for name in recorded.headers} <= built
        assert recorded.headers["X-Request-Id"] != "evil"
        assert recorded.headers["Accept-Encoding"] == "identity"
        assert recorded.headers["User-Agent"].startswith("mirror/")
