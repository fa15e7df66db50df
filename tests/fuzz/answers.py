"""Fuzzed answers of an upstream: right ones, with changes, to a mirror that asks for one thing after another."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

import aiohttp
from yarl import URL

from tests.fuzz.mutation import mutate
from tests.support.images import OCI_INDEX, OCI_MANIFEST
from tests.support.raw import Pieces, RawRequest, respond

UPSTREAMS = [f"u{number}.test" for number in range(40)]
"""Many: what one of them seems to say about its rate limit, or its health, shall not spare the others."""
_KEPT = 20_000
_CLIENTS = 256
_PATIENCE_SECONDS = 60.0
_RIGHT_SHARE = 0.1  # of the answers: they lead further
_BODY_SHARE = 0.3
_ALLOWED = {200, 206, 304, 400, 403, 404, 405, 416, 502, 503, 504}


@dataclass(slots=True)
class AnswerFuzz:
    """An upstream, and clients that ask a mirror for what it has; what they found is in ``findings``."""

    seed: int
    statuses: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    answered: int = 0
    limit: int = 0
    ends_at: float = math.inf
    _contents: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _chance: random.Random = field(default_factory=random.Random)

    # ---- the upstream

    def answer(self, request: RawRequest) -> Pieces:
        """Answer one request of the mirror."""
        self.answered += 1
        chance = random.Random(f"{self.seed} {self.answered}")
        right = self._right(request, chance)
        fate = chance.random()
        if fate < _RIGHT_SHARE:
            return right
        head, _, body = right.partition(b"\r\n\r\n")
        if fate < _RIGHT_SHARE + _BODY_SHARE and body:
            changed = mutate(chance, body, most=3)
            told = head.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % len(changed))
            return b"\r\n\r\n".join((told, changed))
        return [mutate(chance, right)]

    def _right(self, request: RawRequest, chance: random.Random) -> bytes:
        if "/token" in request.target:
            return respond(json.dumps({"token": f"t{chance.random()}", "expires_in": 300}).encode())
        if "authorization" not in request.headers and chance.random() < 0.1:
            realm = f'Bearer realm="http://{request.headers["host"]}/token",service="x",scope="repository:a:pull"'
            return respond(status=401, headers=[("WWW-Authenticate", realm)])
        if chance.random() < 0.05:
            return respond(status=307, headers=[("Location", request.target)])
        body, headers = self._content(request)
        if body is None:
            return respond(b'{"errors":[{"code":"NAME_UNKNOWN"}]}', status=404)
        headers += [("RateLimit-Limit", "100;w=21600"), ("RateLimit-Remaining", "90;w=21600"), ("ETag", '"x"')]
        return _respond_to(request, body, headers)

    def _content(self, request: RawRequest) -> tuple[bytes | None, list[tuple[str, str]]]:
        last = request.target.partition("?")[0].rsplit("/", 1)[-1]
        match request.kind:
            case "manifests":
                body = self._contents.get(last)
                digest = f"sha256:{hashlib.sha256(body or b'').hexdigest()}"
                return body, [("Content-Type", OCI_MANIFEST), ("Docker-Content-Digest", digest)]
            case "blobs":
                return self._contents.get(last), [("Content-Type", "application/octet-stream")]
            case "tags":
                link = ("Link", '</v2/x/tags/list?last=b&n=2>; rel="next"')
                return b'{"name":"x","tags":["a","b","1.2.3"]}', [("Content-Type", "application/json"), link]
            case "referrers":
                one = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 2, "artifactType": "a/b"}
                body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [one]}).encode()
                return body, [("Content-Type", OCI_INDEX), ("Link", f'<{request.target}?page=2>; rel="next"')][:1]
            case "v1":
                return b'{"num_results":1,"results":[{"name":"x"}]}', [("Content-Type", "application/json")]
            case _:
                return b"{}", [("Content-Type", "application/json")]

    # ---- the clients

    async def run(self, base_url: str, number: int) -> None:
        """Ask until that many more answers were given."""
        self.limit = self.answered + number
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
        async with (
            aiohttp.ClientSession(base_url, connector=connector, timeout=timeout, auto_decompress=False) as session,
            asyncio.TaskGroup() as group,
        ):
            for client in range(_CLIENTS):
                group.create_task(self._ask_many(session, random.Random(f"{self.seed} client {client} {self.limit}")))

    async def _ask_many(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        while self.answered < self.limit and time.monotonic() < self.ends_at:
            method, path, expected = self._thing(chance)
            try:
                await self._ask(session, method, path, expected)
            except aiohttp.ClientPayloadError:
                self.statuses["cut"] += 1  # what came was not what it should be
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self.findings.append(f"{error!r} for {method} {path}")

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, path: str, expected: dict[int, bytes | None]
    ) -> None:
        headers = {"Range": "bytes=100-200"} if 206 in expected else {}
        async with session.request(method, URL(path, encoded=True), headers=headers, allow_redirects=False) as response:
            body = await response.read()
            self.statuses[str(response.status)] += 1
            if response.status not in _ALLOWED:
                self.findings.append(f"{response.status} for {method} {path}")
            told = response.headers.get("Docker-Content-Digest")
            if method == "HEAD" or response.status not in {200, 206}:
                return
            right = expected.get(response.status)
            if right is not None and body != right:
                self.findings.append(f"wrong bytes with {response.status} for {path}")
            if response.status == 200 and told is not None and told != f"sha256:{hashlib.sha256(body).hexdigest()}":
                self.findings.append(f"bytes that are not {told} for {path}")

    def _thing(self, chance: random.Random) -> tuple[str, str, dict[int, bytes | None]]:
        """Make something up that was never asked for; return how to ask for it, and what right answers hold.

        A part of what is still being fetched is sent before anybody can know whether all of it is right.
        """
        name = f"{chance.choice(UPSTREAMS)}/r{chance.randrange(1 << 40)}"
        content = chance.randbytes(8).hex().encode() * chance.choice((20, 200, 20_000))
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        what = chance.randrange(8)
        if what < 3:
            layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(content)}
            config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(content)}
            manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode()
            tag = f"t{chance.randrange(1 << 40)}"
            manifest_digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
            self._keep(tag, manifest)
            self._keep(manifest_digest, manifest)
            reference, right = (manifest_digest, manifest) if what == 0 else (tag, None)
            return chance.choice(("GET", "GET", "HEAD")), f"/v2/{name}/manifests/{reference}", {200: right}
        self._keep(digest, content)
        match what:
            case 3 | 4:
                return chance.choice(("GET", "GET", "HEAD")), f"/v2/{name}/blobs/{digest}", {200: content}
            case 5:
                return "GET", f"/v2/{name}/blobs/{digest}", {200: content, 206: None}
            case 6:
                return "GET", f"/v2/{name}/tags/list?n=2", {200: None}
            case _:
                return "GET", f"/v2/{name}/referrers/{digest}", {200: None}

    def _keep(self, reference: str, content: bytes) -> None:
        self._contents[reference] = content
        while len(self._contents) > _KEPT:
            self._contents.popitem(last=False)


def _respond_to(request: RawRequest, body: bytes, headers: list[tuple[str, str]]) -> bytes:
    if request.method == "HEAD":
        return respond(headers=headers, length=len(body))
    asked = request.headers.get("range", "").removeprefix("bytes=")
    if not asked:
        return respond(body, headers=headers)
    first, _, last = asked.partition("-")
    part = body[int(first) : int(last) + 1 if last else None]
    span = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
    return respond(part, status=206, headers=[*headers, ("Content-Range", span)])
