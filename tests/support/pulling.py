"""A client of a mirror that runs in the test's loop: asks as container clients do and keeps whole answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from mirror.ports import UNTRACED, Tracer
from tests.support.images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Image
from tests.support.mirrors import RunningMirror, running_mirror

ACCEPT = {"Accept": f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that was read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes = field(repr=False)
    seconds: float = 0.0

    @property
    def cache_status(self) -> str:
        """What the mirror says happened."""
        return self.headers["Cache-Status"]

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        value: dict[str, Any] = json.loads(self.body)
        return value

    @property
    def code(self) -> str:
        """The one error code in the body."""
        (error,) = self.json["errors"]
        assert error["message"]
        return str(error["code"])


class MirrorClient:
    """Asks one mirror; follows no redirect, decodes nothing."""

    def __init__(self, mirror: RunningMirror, session: aiohttp.ClientSession) -> None:
        self.mirror = mirror
        self._session = session

    async def ask(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for a path, just as it is written."""
        started = asyncio.get_running_loop().time()
        url = URL(self.mirror.base_url + path, encoded=True)
        async with self._session.request(method, url, headers=headers or ACCEPT, allow_redirects=False) as response:
            body = await response.read()
        seconds = asyncio.get_running_loop().time() - started
        return Answer(status=response.status, headers=response.headers, body=body, seconds=seconds)

    async def get(self, path: str) -> Answer:
        """GET."""
        return await self.ask(path)

    async def head(self, path: str) -> Answer:
        """HEAD."""
        return await self.ask(path, method="HEAD")

    async def get_many(self, path: str, number: int) -> list[Answer]:
        """GET the same path many times at once."""
        return await asyncio.gather(*(self.get(path) for _ in range(number)))

    async def settled(self) -> None:
        """Wait until no download is in progress, its file named or removed included."""
        async with asyncio.timeout(10):
            while self.mirror.metrics.get_sample_value("mirror_fills_in_progress"):
                await self.get("/healthz")

    async def pull(self, repository: str, tag: str, image: Image) -> dict[str, Answer]:
        """Ask for everything of an image that a client does; return the answers by what was asked."""
        answers = {
            "head": await self.head(f"/v2/{repository}/manifests/{tag}"),
            "tag": await self.get(f"/v2/{repository}/manifests/{tag}"),
            "manifest": await self.get(f"/v2/{repository}/manifests/{image.digest}"),
        }
        for blob in image.blobs:
            answers[blob.digest] = await self.get(f"/v2/{repository}/blobs/{blob.digest}")
        return answers


@asynccontextmanager
async def mirror_client(
    folder: Path,
    overrides: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
    *,
    public: str | None = None,
    tracer: Tracer = UNTRACED,
) -> AsyncIterator[MirrorClient]:
    """Run a mirror on a folder, and ask it."""
    async with (
        running_mirror(folder, overrides, environ, public=public, tracer=tracer) as mirror,
        aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0), skip_auto_headers=("Accept-Encoding",)
        ) as session,
    ):
        yield MirrorClient(mirror, session)
