"""Fuzzed requests: many to a connection, of which the last may be any bytes at all."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.fuzz.mutation import mutate
from tests.support.images import Image

_TO_A_CONNECTION = 20
_CONNECTIONS = 24
_PATIENCE_SECONDS = 30.0
_SILENCE_SECONDS = 4.0  # after the last answer that is certain: header_timeout is one second here
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_FIVE_HUNDRED = re.compile(rb"HTTP/1\.[01] 500 ")
_LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_VALUES = [
    *("bytes=0-", "bytes=-5", "bytes=5-2", "bytes=0-0,5-9", "bytes=99999999999999999999-", "bytes=--1", "lines=0-1"),
    *("*", '""', 'W/"x"', '"', ",,,", "Basic !!!", "Bearer x", "Basic OmE=", "gzip", "127.0.0.1", "::1", "a, b, c"),
    *("docker.io", "evil.example:99999", "[::1]:5000", "-1", "x" * 4000, "%00", "\\", "application/json;q=nan"),
]
_NAMES = [
    *("Range", "If-Range", "If-None-Match", "Accept", "Authorization", "X-Forwarded-For", "X-Forwarded-Proto"),
    *("Cookie", "Accept-Encoding", "User-Agent", "Via", "X-Request-Id", "Cache-Control", "Forwarded", "Te", "Origin"),
]
_PIECES = [
    *("/", "//", "..", "%2e%2e", "%2f", "%5c", "%00", "%0d%0a", "%", "%zz", "~", "@", ":", "sha256:", "sha512:"),
    *("?", "&", "ns=", "?ns=docker.io", "?n=", "?last=", "?n=1&last=a", "?artifactType=a/b", "v2", "v2/", "manifests"),
    *("blobs", "tags/list", "referrers", "_catalog", "latest", "library", "docker.io", "ghcr.io/", "0" * 64, "A", "-"),
]


@dataclass(slots=True)
class RequestFuzz:
    """Fuzzes one port; what it found is in ``findings``."""

    port: int
    image: Image
    name: str
    seed: int
    statuses: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    sent: int = 0
    ends_at: float = math.inf
    _targets: list[str] = field(init=False)

    def __post_init__(self) -> None:
        """Make what is asked for."""
        weights = [6, 6, 6, 6, 2, 2, 2, 1, 1, 1, 1]  # the pages gather much
        targets = _targets(self.image, self.name)
        self._targets = [one for one, weight in zip(targets, weights, strict=True) for _ in range(weight)]

    async def run(self, number: int) -> None:
        """Send that many requests."""
        async with asyncio.TaskGroup() as group:
            share = -(-number // _CONNECTIONS)
            for task in range(_CONNECTIONS):
                group.create_task(self._send_many(random.Random(f"{self.seed} {task}"), share))

    async def _send_many(self, chance: random.Random, number: int) -> None:
        while number > 0 and time.monotonic() < self.ends_at:
            size = min(number, _TO_A_CONNECTION)
            tame = [self._tame(chance) for _ in range(size - 1)]
            wild = mutate(chance, chance.choice(tame) if tame else self._tame(chance))
            try:
                await self._converse(tame, wild)
            except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, ValueError) as error:
                self.findings.append(f"{error!r} after {tame!r}")
            self.sent += size
            number -= size

    async def _converse(self, tame: list[bytes], wild: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"".join(tame))
            async with asyncio.timeout(_PATIENCE_SECONDS):
                for request in tame:
                    status, is_last = await _read_answer(reader, is_head=request.startswith(b"HEAD"))
                    self.statuses[status] += 1
                    if status == 500:
                        self.findings.append(f"500 for {request!r}")
                    if is_last:  # one that the parser has refused, whatever stands behind it
                        return
            writer.write(wild + _LAST)
            rest = await _read_rest(reader)
            self.statuses[int(rest[9:12]) if rest[9:12].isdigit() else 0] += 1
            if _FIVE_HUNDRED.search(rest):
                self.findings.append(f"500 for {wild!r}")
        finally:
            writer.transport.abort()

    def _tame(self, chance: random.Random) -> bytes:
        """Return a request that ends where it seems to, whatever else is in it."""
        target = chance.choice(self._targets)
        for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
            place = chance.randrange(1, len(target) + 1)
            cut = place + chance.choice((0, 0, 1, 3, 70))
            piece = chance.choice(_PIECES) if chance.random() < 0.7 else "".join(chance.choices(_PRINTABLE, k=3))
            target = target[:place] + piece + target[cut:]
        method, host = chance.choice(("GET", "GET", "GET", "HEAD")), chance.choice(("x", "x", *_VALUES))
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
        for _ in range(chance.choice((0, 0, 1, 2, 3))):
            value = chance.choice(_VALUES)
            if chance.random() < 0.3:
                value = value[: chance.randrange(len(value) + 1)] + "".join(chance.choices(_PRINTABLE, k=2))
            lines.append(f"{chance.choice(_NAMES)}: {value}")
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def _targets(image: Image, name: str) -> list[str]:
    return [
        "/v2/",
        f"/v2/{name}/manifests/latest",
        f"/v2/{name}/manifests/{image.digest}",
        f"/v2/{name}/blobs/{image.config.digest}",
        f"/v2/{name}/tags/list",
        f"/v2/{name}/referrers/{image.digest}",
        "/v2/_catalog",
        "/v1/search?q=x",
        "/metrics",
        "/",
        "/api/v1/overview",
    ]


async def _read_answer(reader: asyncio.StreamReader, *, is_head: bool) -> tuple[int, bool]:
    """Read one answer; return its status, and whether the connection ends with it."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    if head.startswith(b"HTTP/1.0"):  # the parser has refused the request, and may not know that it was a HEAD
        return status, True
    length = _LENGTH.search(head)
    if not is_head and status != 304 and length is not None:
        await reader.readexactly(int(length[1]))
    elif length is None and status not in {204, 304} and b"chunked" in head.lower():
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    return status, False


async def _read_rest(reader: asyncio.StreamReader) -> bytes:
    """Read what is answered to any bytes, until the connection ends or nothing more comes."""
    rest = bytearray()
    try:
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                piece = await reader.read(65536)
            if not piece:
                break
            rest += piece
    except (TimeoutError, ConnectionError):
        pass
    return bytes(rest)
