"""Debian's docker-registry, which checks real tokens by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.support.access import Access
from tests.support.content import Body, Part, body_of
from tests.support.debian_registry import DebianRegistry, TokenAuth
from tests.support.faults import Redirect
from tests.support.habits.base import Habit, Sample
from tests.support.images import docker_image, oci_image
from tests.support.record import Recorded
from tests.support.registry import TestRegistry
from tests.support.replies import Reply
from tests.support.signing import TokenSigner
from tests.support.tokens import TokenService, TokenSettings

_NOT_PASSED_ON = ("Host", "Connection", "Content-Length", "Transfer-Encoding", "Keep-Alive", "Date", "Server")


class DebianTokens(Habit):
    """A registry that we did not write, behind a relay that has the record and the faults; its tokens are JWTs.

    A token stays valid until it ends, whatever `tokens` has revoked: the registry looks at the signature only.
    """

    name = "debian.example"
    tokens: TokenService
    registry: _Relay
    public = Sample("team/public", "1", docker_image(231, layer_bytes=20_000))
    private = Sample("team/private", "1", oci_image(232, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.access = Access(users={"ada": "test-debian-password"}, private={self.private.repository: {"ada"}})
        signer = TokenSigner()
        self.tokens = TokenService(self.access, settings=TokenSettings(service="debian.example"), signer=signer)
        self.registry = _Relay(self.tokens, signer)

    def _fill(self) -> None:
        for repository, tag, image in self.samples:
            self.registry.debian.push(repository, tag, image)


class _Relay(TestRegistry):
    """Passes everything on to the process behind it."""

    def __init__(self, tokens: TokenService, signer: TokenSigner) -> None:
        super().__init__()
        self._tokens = tokens
        self._signer = signer
        self._debian: DebianRegistry | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def debian(self) -> DebianRegistry:
        """The registry; made when the URL of its token service is known."""
        if self._debian is None:
            auth = TokenAuth(realm=self._tokens.url, service=self._tokens.settings.service, signer=self._signer)
            self._debian = DebianRegistry(auth=auth)
        return self._debian

    async def start(self) -> None:
        await self.debian.launch()
        self._session = aiohttp.ClientSession(auto_decompress=False)
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await asyncio.to_thread(self.debian.stop)

    async def __aexit__(self, *exit_: object) -> None:
        await super().__aexit__(*exit_)
        await asyncio.to_thread(self.debian.__exit__)

    async def answer(self, request: web.BaseRequest, recorded: Recorded | None) -> Reply:  # noqa: ARG002 - a Site's
        """Return what the registry answers."""
        if self._session is None:
            raise ConnectionResetError
        url = URL(self.debian.base_url + request.raw_path, encoded=True)
        sent = _passed_on(request.headers)
        async with self._session.request(request.method, url, headers=sent, allow_redirects=False) as response:
            headers = _passed_on(response.headers)
            return Reply(status=response.status, headers=headers, body=await _body_of(request, response))

    def locate(self, recorded: Recorded, redirect: Redirect) -> str:
        """Return the same path on another server: there is no CDN."""
        return (redirect.to or "") + recorded.path


async def _body_of(request: web.BaseRequest, response: aiohttp.ClientResponse) -> Body:
    """Return the body; of a HEAD's only its length."""
    if request.method == "HEAD":
        return (Part(b"", 0, response.content_length or 0),)
    return body_of(await response.read())


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    passed = CIMultiDict(headers)
    for name in _NOT_PASSED_ON:
        passed.popall(name, None)
    return passed
