"""Requests on whose end two readers could disagree; and that the short way of known requests disagrees with none."""

from __future__ import annotations

import asyncio
import json
import random
import re

import pytest

from mirror.web.hot import HotRequests
from tests.functional.conftest import StartMirror
from tests.fuzz.mutation import mutate
from tests.support.images import docker_image
from tests.support.pulling import MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
IMAGE = docker_image(1)
KNOWN = f"GET /v2/{NAME}/manifests/{IMAGE.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
KNOWN_HEAD = KNOWN.replace(b"GET", b"HEAD", 1)
SMUGGLED = b"GET /v2/library/secret/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
RESET = b"reset"
PATIENCE_SECONDS = 18.0
SILENCE_SECONDS = 3.0  # the header_timeout here is one
CHANGING = re.compile(rb"\r\n(?:X-Request-ID|Date|Server): [^\r]*|; ttl=[0-9]+", re.IGNORECASE)
STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")


@pytest.fixture
async def client(registry: TestRegistry, start_mirror: StartMirror) -> MirrorClient:
    registry.add(NAME, "latest", IMAGE)
    return await start_mirror(registry.base_url, overrides={"server.header_timeout": "1s"})


async def converse(client: MirrorClient, *pieces: bytes) -> bytes:
    """Write pieces, each in a segment of its own, and return all that is answered until the end or silence.

    A connection that is closed before all was read of it is reset, which may take the answers away: it is had anew.
    """
    for _ in range(4):
        answers = await converse_once(client, *pieces)
        if answers is not None:
            return answers
    return RESET


async def converse_once(client: MirrorClient, *pieces: bytes) -> bytes | None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.mirror.port)
    answers = bytearray()
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # so that it is not sent with the next; nothing is asserted about it
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                piece = await reader.read(65536)
            if not piece:
                break
            answers += piece
    except TimeoutError:
        pass
    except ConnectionError:
        return None
    finally:
        writer.transport.abort()
    return bytes(answers)


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in STATUS.findall(answers)]


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST /v2/ HTTP/1.1", b"Host: x", *lines, b"", b""]) + body


REFUSED = {
    "a length and chunks": post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "two lengths": post(b"Content-Length: 0", b"Content-Length: 5", body=b"abcde"),
    "two lengths in one": post(b"Content-Length: 0, 5", body=b"abcde"),
    "a signed length": post(b"Content-Length: +5", body=b"abcde"),
    "a length of letters": post(b"Content-Length: 0x5", body=b"abcde"),
    "a space before the colon": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "a folded coding": post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "a coding that is none": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "a coding behind chunks": post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "a bare line feed": b"GET /v2/ HTTP/1.1\nHost: x\n\n",
    "a bare line feed in a header": b"GET /v2/ HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
    "a bare carriage return": b"GET /v2/ HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "a NUL in a header": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "many headers": b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    "a header too long": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    "a target too long": b"GET /v2/" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "two hosts": b"GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /v2/\r\n\r\n",
    "HTTP/3.7": b"GET /v2/ HTTP/3.7\r\nHost: x\r\n\r\n",
}


TOO_LONG = {
    "a target": (b"GET /v2/" + b"y" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "longer than 8190 bytes"),
    "a value": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: /" + b"y" * 9000 + b"\r\n\r\n", 431, "longer than 8192 bytes"),
    "a name": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"y" * 9000 + b": 1\r\n\r\n", 431, "longer than 8192 bytes"),
    "headers": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "more than 128"),
}


@pytest.mark.parametrize("name", TOO_LONG)
async def test_what_is_too_long_is_said(client: MirrorClient, name: str) -> None:
    """RFC 9110 section 15.5.15, RFC 6585 section 5."""
    request, status, reason = TOO_LONG[name]
    head, _, body = (await converse(client, request) or b"").partition(b"\r\n\r\n")
    assert statuses(head) == [status]
    assert b"Docker-Distribution-Api-Version: registry/2.0" in head
    (error,) = json.loads(body)["errors"]
    assert error["code"] == "UNSUPPORTED"
    assert reason in error["message"]


async def test_what_is_just_short_enough_is_answered(client: MirrorClient) -> None:
    line = b"/v2/x/manifests/1?y=" + b"y" * 8100
    answers = await converse(client, b"GET " + line + b" HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 8000 + b"\r\n\r\n")
    assert statuses(answers) == [404]


@pytest.mark.parametrize("name", REFUSED)
async def test_nothing_behind_a_request_without_a_certain_end_is_answered(
    registry: TestRegistry, client: MirrorClient, name: str
) -> None:
    answers = await converse(client, REFUSED[name] + SMUGGLED)
    assert len(statuses(answers)) == 1
    assert 400 <= statuses(answers)[0] < 500
    assert registry.requests == []


@pytest.mark.parametrize(
    "body",
    [
        post(b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
        post(b"Transfer-Encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
        post(b"Content-Length: 99999999999999"),
    ],
)
async def test_a_body_is_no_request(registry: TestRegistry, client: MirrorClient, body: bytes) -> None:
    found = statuses(await converse(client, body + LAST))
    assert [status for status in found if status != 100] in ([405], [405, 200])
    assert registry.requests == []


async def test_a_tunnel_is_not_opened(registry: TestRegistry, client: MirrorClient) -> None:
    answers = await converse(client, b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED)
    assert statuses(answers)[0] in {400, 405}
    assert 200 not in statuses(answers)


async def test_thousands_of_requests_at_once_on_a_connection_are_answered_in_order(client: MirrorClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.mirror.port)
    writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" * 3000 + LAST)
    async with asyncio.timeout(50):
        answers = await reader.read(-1)
    writer.close()
    assert statuses(answers) == [200] * 3001


# The short way and the parser


def sequences() -> list[tuple[bytes, ...]]:
    """Return what is written, segment by segment: known requests, whole, cut, joined and changed."""
    chance = random.Random(5)
    made: list[tuple[bytes, ...]] = [
        (KNOWN, LAST),
        (KNOWN_HEAD, KNOWN, LAST),
        (KNOWN + KNOWN, LAST),
        (KNOWN + b"x", LAST),
        (KNOWN + b"\r\n", LAST),
        (b"\r\n" + KNOWN, LAST),
        (KNOWN.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"), KNOWN, LAST),
        (KNOWN.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % len(KNOWN)), KNOWN, KNOWN, LAST),
        (KNOWN.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"), KNOWN, LAST),
        (post(b"Content-Length: %d" % len(KNOWN)), KNOWN, LAST),
        (post(b"Transfer-Encoding: chunked"), KNOWN, LAST),
        (b"GET /v2/ HTTP/1.1\r\nX: ", KNOWN, LAST),
        (b"GET /v2/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", KNOWN, LAST),
    ]
    made += [(KNOWN[:place], KNOWN[place:], LAST) for place in range(1, len(KNOWN), 11)]
    made += [(KNOWN, mutate(chance, KNOWN), KNOWN, LAST) for _ in range(30)]
    return made


async def test_a_request_is_not_learned_as_the_one_that_was_answered_before_it(
    registry: TestRegistry, client: MirrorClient, start_mirror: StartMirror
) -> None:
    """The second comes while the first is under way: its bytes must not become known with the first one's answer."""
    await converse(client, KNOWN, LAST)
    cold = await start_mirror(registry.base_url)  # on the same folder, with nothing in memory: hits take a moment
    pairs = [
        (
            KNOWN.replace(b"\r\n\r\n", b"\r\nX: %d\r\n\r\n" % number),
            b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: %d\r\n\r\n" % number,
        )
        for number in range(40)
    ]

    async def ask_both(first: bytes, second: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", cold.mirror.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"ok\n")
        for piece in (first, second, LAST):
            writer.write(piece)
            await asyncio.sleep(0.002)  # so that they are received one by one
        async with asyncio.timeout(PATIENCE_SECONDS):
            await reader.read(-1)
        writer.close()

    await asyncio.gather(*(ask_both(*pair) for pair in pairs))
    for _, second in pairs:
        assert b"\r\n\r\n{}HTTP/1.1 200" in await converse(cold, second, LAST)


@pytest.mark.timeout(180)
async def test_the_short_way_answers_as_the_long_one_does(
    client: MirrorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, in the same segments, with requests that are known and with none that is."""
    answer, taken = HotRequests.answer, []

    def counted(self: HotRequests, *arguments: object, **named: object) -> bool:
        is_taken = answer(self, *arguments, **named)  # type: ignore[arg-type]
        taken.append(is_taken)
        return is_taken

    def never(*_: object, **__: object) -> bool:
        return False

    results = []
    for way in (counted, never):
        monkeypatch.setattr(HotRequests, "answer", way)
        for _ in range(2):
            await converse(client, KNOWN, KNOWN_HEAD, LAST)  # known from here on
        async with asyncio.timeout(3 * PATIENCE_SECONDS):
            answers = await asyncio.gather(*(converse(client, *pieces) for pieces in sequences()))
        results.append([CHANGING.sub(b"", one) for one in answers])
    assert sum(taken) > 20
    compared = 0
    for pieces, short, long in zip(sequences(), *results, strict=True):
        if RESET not in {short, long}:
            assert short == long, pieces
            compared += 1
    assert compared > 20
