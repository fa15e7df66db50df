"""What a hostile upstream sends: the client gets a clear error soon, memory stays bounded, nothing wrong is stored."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from hashlib import sha256

import aiohttp
import pytest

from tests.functional.conftest import StartMirror
from tests.support.images import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, docker_image
from tests.support.pulling import Answer, MirrorClient
from tests.support.raw import Pieces, RawRequest, RawServer, respond

NAME = "library/app"
IMAGE = docker_image(1)
PIECE = b"x" * 65536
TEN_GB = 10_000_000_000
SOON_SECONDS = 20.0  # the limits here are two seconds; machines may be busy
MOST_TAKEN_BYTES = 24 << 20  # of what is refused: the longest answer there may be, and what sockets and buffers hold
PATHS = {
    "tag": f"/v2/{NAME}/manifests/latest",
    "digest": f"/v2/{NAME}/manifests/{IMAGE.digest}",
    "blob": f"/v2/{NAME}/blobs/{IMAGE.config.digest}",
    "tags": f"/v2/{NAME}/tags/list",
    "referrers": f"/v2/{NAME}/referrers/{IMAGE.digest}",
    "search": "/v1/search?q=x",
}
MANIFEST_HEADERS = [("Content-Type", DOCKER_MANIFEST), ("Docker-Content-Digest", IMAGE.digest)]
everywhere = pytest.mark.parametrize("what", PATHS)


def stored(client: MirrorClient) -> list[str]:
    """Return the content that is stored, complete or not."""
    files = [path for part in ("blobs", "partial") for path in (client.mirror.folder / part).rglob("*")]
    return [path.name for path in files if path.is_file()]


async def get(client: MirrorClient, path: str) -> Answer:
    async with asyncio.timeout(SOON_SECONDS):
        return await client.get(path)


def assert_refused(client: MirrorClient, answer: Answer) -> None:
    assert (answer.status, answer.code) in {(502, "UNAVAILABLE"), (504, "UNAVAILABLE")}
    message = answer.json["errors"][0]["message"]
    assert len(message) < 400
    assert message.isascii()
    assert message.isprintable()
    assert stored(client) == []


def healthy(request: RawRequest) -> bytes:
    """Answer as a registry does."""
    answers: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
        "manifests": (IMAGE.manifest, MANIFEST_HEADERS),
        "blobs": (IMAGE.config.content, []),
        "tags": (b'{"name":"library/app","tags":["latest"]}', []),
        "referrers": (b'{"schemaVersion":2,"manifests":[]}', []),
        "v1": (b'{"results":[]}', []),
        "ping": (b"{}", []),
    }
    body, headers = answers[request.kind]
    if request.method == "HEAD":
        return respond(headers=headers, length=len(body))
    return respond(body, headers=headers)


async def assert_heals(client: MirrorClient, upstream: RawServer, path: str) -> None:
    """Show that the very same is answered, once the upstream is well."""
    upstream.answer = healthy
    answer = await get(client, path)
    assert answer.status == 200


# Heads


def lines(first: bytes = b"HTTP/1.1 200 OK\r\n", line: bytes = b"X-A: b\r\n") -> Iterator[bytes]:
    yield first
    yield from itertools.repeat(line * 1024)


HEADS: dict[str, Callable[[], Pieces]] = {
    "endless headers": lines,
    "one endless header": lambda: lines(line=b"x" * 64),
    "an endless status line": lambda: lines(first=b"HTTP/1.1 200 ", line=b"x" * 64),
    "endless empty lines": lambda: lines(first=b"", line=b"\r\n"),
    "endless 100 Continue": lambda: lines(first=b"", line=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "many headers": lambda: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n",
    "nothing": lambda: [b""],
    "a head that stops": lambda: waiting(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "another protocol": lambda: [b"SSH-2.0-OpenSSH_9.2\r\n"],
    "TLS": lambda: [b"\x15\x03\x01\x00\x02\x02\x16"],
    "noise": lambda: [bytes(range(256)) * 16],
    "a status of letters": lambda: [b"HTTP/1.1 OK 200\r\nContent-Length: 2\r\n\r\n{}"],
    "a status too long": lambda: [b"HTTP/1.1 2000000000000000000000 OK\r\nContent-Length: 2\r\n\r\n{}"],
    "HTTP/9.9": lambda: [b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}"],
    "a negative length": lambda: respond(b"{}", length=-5),
    "a length of letters": lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}"],
    "a length past every integer": lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n{}"],
    "two lengths": lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x"],
    "two lengths in one": lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}x"],
    "chunks without sense": lambda: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"],
    "a negative chunk": lambda: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"],
    "an enormous chunk": lambda: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n{}"],
    "a NUL in a header": lambda: [b"HTTP/1.1 200 OK\r\nContent-Type: a\0b\r\nContent-Length: 2\r\n\r\n{}"],
    "a header without a name": lambda: [b"HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\n{}"],
    "switching protocols": lambda: [b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
    "204": lambda: [b"HTTP/1.1 204 X\r\n\r\n"],
    "304": lambda: [b"HTTP/1.1 304 X\r\n\r\n"],
    "999": lambda: respond(status=999),
}


async def waiting(first: bytes) -> AsyncIterator[bytes]:
    """Send this, and then nothing."""
    yield first
    await asyncio.Event().wait()


async def dripping(first: bytes) -> AsyncIterator[bytes]:
    """Send this, and then a byte now and then, for ever."""
    yield first
    while True:
        await asyncio.sleep(0.05)
        yield b" "


@pytest.mark.parametrize("what", ["tag", "blob", "tags"])
@pytest.mark.parametrize("head", HEADS)
async def test_a_hostile_head_is_an_error(start_mirror: StartMirror, what: str, head: str) -> None:
    async with RawServer(lambda _: HEADS[head]()) as upstream:
        client = await start_mirror(upstream.base_url)
        answer = await get(client, PATHS[what])
        if answer.status == 200:  # the parser made an empty object of it, which is a list without tags
            assert (what, answer.json) == ("tags", {"name": NAME, "tags": []})
        else:
            assert_refused(client, answer)
        # what the parser throws away as it comes is bounded by time alone
        assert upstream.bytes_taken < MOST_TAKEN_BYTES or head in {"endless empty lines", "endless 100 Continue"}
        await assert_heals(client, upstream, PATHS[what])


# Bodies


FRAMES = {"size": b"0" * 64, "extension": b"2;" + b"x" * 64}


@pytest.mark.parametrize("what", ["tag", "tags", "referrers"])
@pytest.mark.parametrize("frame", FRAMES)
async def test_a_chunk_that_never_begins_is_not_waited_for(start_mirror: StartMirror, what: str, frame: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with RawServer(only_gets(lambda _: lines(first=head + FRAMES[frame], line=FRAMES[frame][2:]))) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(client, await get(client, PATHS[what]))
        await assert_heals(client, upstream, PATHS[what])


@pytest.mark.parametrize("frame", FRAMES)
async def test_a_blobs_chunk_that_never_begins_is_asked_for_again(start_mirror: StartMirror, frame: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def answer(request: RawRequest) -> Pieces:
        is_first = len(upstream.requests) == 1
        return lines(first=head + FRAMES[frame], line=FRAMES[frame][2:]) if is_first else healthy(request)

    async with RawServer(answer) as upstream:
        client = await start_mirror(upstream.base_url)
        assert (await get(client, PATHS["blob"])).body == IMAGE.config.content
        assert len(upstream.requests) == 2


async def test_a_blob_without_end_is_not_stored_past_its_size(start_mirror: StartMirror) -> None:
    """Its manifest says how long it is, and the upstream nothing."""

    def answer(request: RawRequest) -> Pieces:
        return endless_chunks()(request) if request.kind == "blobs" else healthy(request)

    async with RawServer(answer) as upstream:
        client = await start_mirror(upstream.base_url)
        assert (await get(client, PATHS["digest"])).status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await get(client, PATHS["blob"])
        assert upstream.bytes_taken < MOST_TAKEN_BYTES
        assert stored(client) == [IMAGE.digest.removeprefix("sha256:")]
        await assert_heals(client, upstream, PATHS["blob"])


def endless(*headers: tuple[str, str]) -> Callable[[RawRequest], Iterable[bytes]]:
    """Announce 10 GB, and send them."""

    def answer(_: RawRequest) -> Iterator[bytes]:
        yield respond(length=TEN_GB, headers=headers)
        yield from itertools.repeat(PIECE)

    return answer


def endless_chunks(*headers: tuple[str, str]) -> Callable[[RawRequest], Iterable[bytes]]:
    """Announce nothing, and send without end."""

    def answer(_: RawRequest) -> Iterator[bytes]:
        text = "".join(f"{name}: {value}\r\n" for name, value in headers)
        yield f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{text}\r\n".encode()
        yield from itertools.repeat(b"10000\r\n" + PIECE + b"\r\n")

    return answer


def only_gets(answer: Callable[[RawRequest], Pieces]) -> Callable[[RawRequest], Pieces]:
    """Answer HEAD as a registry does."""
    return lambda request: healthy(request) if request.method == "HEAD" else answer(request)


@pytest.mark.parametrize("what", ["tag", "digest", "tags", "referrers", "search"])
@pytest.mark.parametrize("make", [endless, endless_chunks], ids=["announced", "chunked"])
async def test_ten_gigabytes_in_place_of_a_manifest_are_not_read(
    start_mirror: StartMirror, what: str, make: Callable[..., Callable[[RawRequest], Iterable[bytes]]]
) -> None:
    async with RawServer(only_gets(make(*MANIFEST_HEADERS))) as upstream:
        client = await start_mirror(upstream.base_url)
        answer = await get(client, PATHS[what])
        assert_refused(client, answer)
        assert "more than" in answer.json["errors"][0]["message"]
        assert upstream.bytes_taken < MOST_TAKEN_BYTES
        await assert_heals(client, upstream, PATHS[what])


@pytest.mark.parametrize("what", ["tag", "digest", "tags", "referrers", "search"])
async def test_a_manifest_that_comes_byte_by_byte_is_not_waited_for(start_mirror: StartMirror, what: str) -> None:
    """Each byte comes within `read_timeout`, the last one never."""
    first = respond(b"{", length=4_000_000, headers=MANIFEST_HEADERS)
    async with RawServer(only_gets(lambda _: dripping(first))) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(client, await get(client, PATHS[what]))
        await assert_heals(client, upstream, PATHS[what])


async def test_referrers_without_end_are_not_gathered(start_mirror: StartMirror) -> None:
    """Each page is as long as one may be, and leads to another."""
    page = json.dumps({"schemaVersion": 2, "manifests": [{"annotations": {"a": "x" * 4_000_000}}]}).encode()
    pages = itertools.count()

    def answer(_: RawRequest) -> bytes:
        return respond(page, headers=[("Link", f'</v2/x?page={next(pages)}>; rel="next"')])

    async with RawServer(answer) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(client, await get(client, PATHS["referrers"]))
        assert upstream.bytes_taken < MOST_TAKEN_BYTES


@pytest.mark.parametrize("body", [endless, endless_chunks], ids=["announced", "chunked"])
async def test_a_token_without_end_is_not_read(
    start_mirror: StartMirror, body: Callable[[], Callable[[RawRequest], Iterable[bytes]]]
) -> None:
    def answer(request: RawRequest) -> Pieces:
        if request.target.startswith("/token"):
            return body()(request)
        realm = f'Bearer realm="http://{request.headers["host"]}/token",service="x"'
        return respond(status=401, headers=[("WWW-Authenticate", realm)])

    async with RawServer(answer) as upstream:
        client = await start_mirror(upstream.base_url)
        for what in ("tag", "blob"):
            assert_refused(client, await get(client, PATHS[what]))
        assert upstream.bytes_taken < MOST_TAKEN_BYTES


@pytest.mark.parametrize(
    "token",
    [
        b'{"token":"a\\r\\nX-Injected: yes"}',
        b'{"token":"\\u0000"}',
        b'{"token":"\\ud800"}',
        b'{"token":' + b"[" * 500_000,
        b'{"token":1e999}',
        b'{"token":"abc","expires_in":' + b"9" * 5000 + b"}",
        b'{"token":"abc","expires_in":NaN,"token":7}',
        b"\xff\xfe{",
        b"",
    ],
)
async def test_a_token_that_is_none_is_an_error(start_mirror: StartMirror, token: bytes) -> None:
    def answer(request: RawRequest) -> bytes:
        if request.target.startswith("/token"):
            return respond(token)
        realm = f'Bearer realm="http://{request.headers["host"]}/token",service="x"'
        return respond(status=401, headers=[("WWW-Authenticate", realm)])

    async with RawServer(answer) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(client, await get(client, PATHS["blob"]))
        assert not any("authorization" in request.headers for request in upstream.requests)


# JSON


def layers(*digests: str) -> bytes:
    described = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": one, "size": 1} for one in digests]
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": described}).encode()


JSON = {
    "deep nesting of lists": b'{"schemaVersion":2,"config":' + b"[" * 1_000_000,
    "deep nesting of objects": b'{"schemaVersion":2,"config":' + b'{"a":' * 400_000,
    "deep nesting that ends": b'{"schemaVersion":2,"config":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a number of a million digits": b'{"schemaVersion":2,"config":{"size":' + b"9" * 1_000_000 + b"}}",
    "a number past every float": b'{"schemaVersion":1e999999999}',
    "NaN": b'{"schemaVersion":NaN}',
    "invalid UTF-8": b'{"schemaVersion":2,"mediaType":"\xff\xfe"}',
    "overlong UTF-8": b'{"schemaVersion":2,"mediaType":"\xc0\xaf"}',
    "UTF-16": '{"schemaVersion":2}'.encode("utf-16"),
    "a surrogate as the type": b'{"schemaVersion":2,"mediaType":"\\ud800"}',
    "duplicate names": b'{"schemaVersion":2,"schemaVersion":2,"layers":[],"layers":[]}',
    "a name in the wrong case": b'{"schemaVersion":2,"Layers":[]}',
    "an unknown algorithm": layers("md5:d41d8cd98f00b204e9800998ecf8427e"),
    "a path as a digest": layers("sha256:../../../../etc/passwd"),
    "a line break in a type": b'{"schemaVersion":2,"mediaType":"application/json\\r\\nX-Injected: yes"}',
    "a number as a digest": b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":1,"size":1}}',
    "a negative size": layers(f"sha256:{'1' * 64}").replace(b'"size": 1', b'"size": -1'),
    "an enormous size": layers(f"sha256:{'1' * 64}").replace(b'"size": 1', b'"size": 1' + b"0" * 30),
    "a truth as a size": layers(f"sha256:{'1' * 64}").replace(b'"size": 1', b'"size": true'),
}


def manifest_answer(body: bytes, content_type: str = OCI_MANIFEST) -> Callable[[RawRequest], bytes]:
    """Answer with a manifest that is right about its own digest."""
    headers = [("Content-Type", content_type), ("Docker-Content-Digest", f"sha256:{sha256(body).hexdigest()}")]

    def answer(request: RawRequest) -> bytes:
        return respond(b"" if request.method == "HEAD" else body, headers=headers, length=len(body))

    return answer


@pytest.mark.parametrize("name", JSON)
async def test_a_manifest_of_hostile_json_is_an_error(start_mirror: StartMirror, name: str) -> None:
    body = JSON[name]
    async with RawServer(manifest_answer(body, "application/json")) as upstream:
        client = await start_mirror(upstream.base_url)
        for reference in ("latest", f"sha256:{sha256(body).hexdigest()}"):
            assert_refused(client, await get(client, f"/v2/{NAME}/manifests/{reference}"))


LISTS = {
    "deep nesting": b'{"tags":' + b"[" * 1_000_000,
    "deep nesting that ends": b'{"tags":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number of a million digits": b'{"tags":[' + b"9" * 1_000_000 + b"]}",
    "NaN": b'{"tags":[NaN]}',
    "invalid UTF-8": b'{"tags":["\xff"]}',
    "UTF-16": '{"tags":["a"]}'.encode("utf-16"),
    "an object of tags": b'{"tags":{"a":1}}',
    "a list": b"[]",
}


@pytest.mark.parametrize("name", LISTS)
async def test_a_list_of_hostile_json_is_an_error(start_mirror: StartMirror, name: str) -> None:
    async with RawServer(lambda _: respond(LISTS[name])) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(client, await get(client, PATHS["tags"]))


@pytest.mark.parametrize(
    "tag", [b'"\\ud800"', b'"a\\r\\nX-Injected: yes"', b'"\\u0000"', b"{}", b"7", b'"' + b"a" * 1_000_000 + b'"']
)
async def test_what_can_be_no_tag_is_left_out_of_the_list(start_mirror: StartMirror, tag: bytes) -> None:
    headers = [("Link", '</v2/x/tags/list?last=a>; rel="next"')]
    async with RawServer(lambda _: respond(b'{"tags":["a",' + tag + b"]}", headers=headers)) as upstream:
        client = await start_mirror(upstream.base_url)
        answer = await get(client, PATHS["tags"])
    assert answer.json == {"name": NAME, "tags": ["a"]}
    assert answer.headers["Link"] == f'</v2/{NAME}/tags/list?last=a>; rel="next"'


REFERRERS = {
    "manifests that are no list": b'{"manifests":{"a":1}}',
    "manifests that are no objects": b'{"manifests":[1,"a",null]}',
    "deep nesting": b'{"manifests":' + b"[" * 1_000_000,
    "NaN": b'{"manifests":[{"size":NaN}]}',
    "invalid UTF-8": b'{"manifests":[{"a":"\xff"}]}',
}


@pytest.mark.parametrize("name", REFERRERS)
async def test_referrers_of_hostile_json_are_an_error(start_mirror: StartMirror, name: str) -> None:
    async with RawServer(lambda _: respond(REFERRERS[name])) as upstream:
        client = await start_mirror(upstream.base_url)
        for suffix in ("", "?artifactType=a/b"):
            assert_refused(client, await get(client, PATHS["referrers"] + suffix))


async def test_a_manifest_of_a_million_layers_is_refused(start_mirror: StartMirror) -> None:
    """So many do not fit into 4 MiB; with what does, a database would be busy for seconds."""
    million = b'{"schemaVersion":2,"layers":[' + b"{}," * 1_000_000 + b"{}]}"
    fitting = layers(*(f"sha256:{number:064x}" for number in range(26_000)))
    assert len(fitting) < 4 << 20
    for body in (million, fitting):
        async with RawServer(manifest_answer(body)) as upstream:
            client = await start_mirror(upstream.base_url)
            assert_refused(client, await get(client, PATHS["tag"]))


async def test_a_manifest_of_a_thousand_layers_holds_nobody_up(start_mirror: StartMirror) -> None:
    async with RawServer(manifest_answer(layers(*(f"sha256:{number:064x}" for number in range(1000))))) as upstream:
        client = await start_mirror(upstream.base_url)
        asking = asyncio.gather(*(get(client, PATHS["tag"]) for _ in range(2)))
        pings = 0
        while not asking.done():
            assert (await get(client, "/v2/")).status == 200
            pings += 1
        assert [answer.status for answer in await asking] == [200, 200]
        assert pings > 1


async def test_many_small_objects_at_once_take_bounded_memory(start_mirror: StartMirror) -> None:
    """4 MiB of ``{},`` become some ninety MiB of objects, for as long as they are read."""
    body = b'{"schemaVersion":2,"layers":[' + b"{}," * 1_390_000 + b"{}]}"
    async with RawServer(manifest_answer(body)) as upstream:
        client = await start_mirror(upstream.base_url)
        tracemalloc.start()
        try:
            answers = await asyncio.gather(
                *(client.get(f"/v2/{NAME}/manifests/tag-{number}") for number in range(6)),
                *(client.get(f"/v2/{NAME}{number}/tags/list") for number in range(6)),
            )
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert {answer.status for answer in answers} <= {200, 502, 504}
    assert peak_bytes < 300e6


# Lengths


@pytest.mark.parametrize("length", [0, 1, len(IMAGE.manifest) - 1, len(IMAGE.manifest) + 1, TEN_GB])
@pytest.mark.parametrize("what", ["tag", "digest"])
async def test_a_manifest_of_a_wrong_length_is_an_error(start_mirror: StartMirror, what: str, length: int) -> None:
    def answer(request: RawRequest) -> Pieces:
        if request.method == "HEAD":
            return healthy(request)
        return [respond(IMAGE.manifest, headers=MANIFEST_HEADERS, length=length)]

    async with RawServer(answer) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(client, await get(client, PATHS[what]))
        await assert_heals(client, upstream, PATHS[what])


async def test_what_follows_an_answer_is_not_taken_for_the_next(start_mirror: StartMirror) -> None:
    """The upstream says too little about its length, and sends a whole answer behind it."""
    smuggled = respond(b"{}", headers=[("Content-Type", DOCKER_MANIFEST)])

    def answer(request: RawRequest) -> bytes:
        return healthy(request) + (smuggled if request.kind == "tags" else b"")

    async with RawServer(answer) as upstream:
        client = await start_mirror(upstream.base_url)
        for _ in range(3):
            assert (await get(client, PATHS["tags"])).json["tags"] == ["latest"]
            assert (await get(client, PATHS["blob"])).body == IMAGE.config.content
        assert (await get(client, PATHS["digest"])).body == IMAGE.manifest


# Encodings


BOMB = gzip.compress(bytes(50_000_000))


@everywhere
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "gzip, identity", "x"])
async def test_what_is_compressed_although_nobody_asked_is_refused_unread(
    start_mirror: StartMirror, what: str, encoding: str
) -> None:
    headers = [*MANIFEST_HEADERS, ("Content-Encoding", encoding)]
    async with RawServer(only_gets(lambda _: respond(BOMB, headers=headers))) as upstream:
        client = await start_mirror(upstream.base_url)
        answer = await get(client, PATHS[what])
        assert_refused(client, answer)
        assert "Content-Encoding" in answer.json["errors"][0]["message"]


async def test_a_compressed_transfer_is_not_unpacked(start_mirror: StartMirror) -> None:
    chunk = f"{len(BOMB):x}\r\n".encode() + BOMB + b"\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    async with RawServer(lambda _: [head + chunk]) as upstream:
        client = await start_mirror(upstream.base_url)
        for what in ("tags", "referrers"):
            assert_refused(client, await get(client, PATHS[what]))


# Headers that would reach clients


OUR_HEADERS = {
    "cache-control",
    "cache-status",
    "content-length",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "etag",
    "link",
    "server",
    "x-request-id",
}
INJECTIONS = [
    "application/json\r\n X-Injected: yes",
    "application/json\rX-Injected: yes",
    "application/json\nX-Injected: yes",
    "application/vnd.oci.image.manifest.v1+json\x0bX-Injected: yes",
    "application/vnd.x\x00+json",
    "application/vnd.\u2028+json",
    "\udcff",
    "a" * 60_000,
]


@pytest.mark.parametrize("name", ["Content-Type", "Docker-Content-Digest", "Link", "ETag", "Warning", "Set-Cookie"])
@pytest.mark.parametrize("value", INJECTIONS, ids=range(len(INJECTIONS)))
async def test_an_upstreams_headers_are_not_handed_on(start_mirror: StartMirror, name: str, value: str) -> None:
    def answer(request: RawRequest) -> bytes:
        body = IMAGE.manifest if request.kind == "manifests" else b'{"tags":["a"],"manifests":[]}'
        return respond(b"" if request.method == "HEAD" else body, headers=[(name, value)], length=len(body))

    async with RawServer(answer) as upstream:
        client = await start_mirror(upstream.base_url)
        for what in ("tag", "digest", "tags", "referrers"):
            found = await get(client, PATHS[what])
            assert {header.lower() for header in found.headers} <= OUR_HEADERS
            # not fewer: the request's id may have a few of them in a row
            assert not any("njected" in text or "a" * 17 in text for text in found.headers.values())
            if found.status != 200:
                assert found.status in {502, 504}
            elif what in {"tag", "digest"}:
                assert found.headers["Content-Type"] == DOCKER_MANIFEST
                assert found.headers["Docker-Content-Digest"] == IMAGE.digest


@pytest.mark.parametrize(
    "digest", ["md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:", "sha256:../../x", "", "*", "a" * 9000]
)
async def test_a_digest_header_that_is_none_is_an_error(start_mirror: StartMirror, digest: str) -> None:
    headers = [("Content-Type", OCI_INDEX), ("Docker-Content-Digest", digest)]
    async with RawServer(lambda _: respond(b'{"schemaVersion":2,"manifests":[]}', headers=headers)) as upstream:
        client = await start_mirror(upstream.base_url)
        assert_refused(client, await get(client, PATHS["tag"]))
