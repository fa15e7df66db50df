"""A plain client of registries: asks what it is told to, or all that a pull takes; keeps whole answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from tests.support import pulling
from tests.support.habits.base import Habit, Sample

Credential = tuple[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(pulling.Answer):
    """A response of a registry or a token service."""

    @property
    def names(self) -> set[str]:
        """The names in the JSON object."""
        return set(self.json)

    @property
    def error(self) -> tuple[int, str, str]:
        """Status, code and message of the one error."""
        (error,) = self.json["errors"]
        return self.status, error["code"], error["message"]

    @property
    def challenge(self) -> str:
        """What the registry asks for; empty where it asks for nothing."""
        return self.headers.get("WWW-Authenticate", "")

    def parameter(self, name: str) -> str:
        """Return a quoted parameter of the challenge."""
        found = re.search(rf'{name}="([^"]*)"', self.challenge)
        assert found is not None
        return found[1]


class PlainClient:
    """Asks just what it is told to, and follows nothing; `pull` does what container clients do."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(
        self,
        url: str | URL,
        *,
        method: str = "GET",
        credential: Credential = None,
        token: str | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request."""
        headers = dict(pulling.ACCEPT)
        if credential is not None:
            headers["Authorization"] = aiohttp.encode_basic_auth(*credential, encoding="utf-8")
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self._session.request(method, url, headers=headers, data=form, allow_redirects=False) as response:
            return Answer(status=response.status, headers=response.headers, body=await response.read())

    async def ask_token(self, habit: Habit, scope: str | None = None, credential: Credential = None) -> Answer:
        """Ask the token service by GET."""
        assert habit.tokens is not None
        query = {} if scope is None else {"scope": scope}
        return await self.ask(URL(habit.tokens.url).with_query(query), credential=credential)

    async def token(self, habit: Habit, repository: str, credential: Credential = None) -> str:
        """Return a token for pulling from a repository."""
        answer = await self.ask_token(habit, f"repository:{repository}:pull", credential)
        token: str = answer.json.get("token") or answer.json["access_token"]
        return token

    async def get(self, url: URL, credential: Credential) -> Answer:
        """Answer one challenge, and follow redirects without what was for another origin."""
        answer = await self.ask(url)
        if answer.status == 401 and answer.challenge.startswith("Basic"):
            answer = await self.ask(url, credential=credential)
        elif answer.status == 401:
            scope = answer.parameter("scope").split()[0]
            given = await self.ask(URL(answer.parameter("realm")).with_query(scope=scope), credential=credential)
            if given.status != 200:
                return given
            answer = await self.ask(url, token=given.json.get("token") or given.json["access_token"])
        if answer.status in {302, 307}:
            return await self.get(url.join(URL(answer.headers["Location"], encoded=True)), credential)
        return answer

    async def pull(self, habit: Habit, sample: Sample, credential: Credential) -> list[int]:
        """Return the statuses for tag and blobs; what is answered by 200 is right."""
        base = f"{habit.registry.base_url}/v2/{sample.repository}"
        wanted = {habit.manifest_url(sample): sample.image.manifest}
        wanted |= {f"{base}/blobs/{blob.digest}": blob.content for blob in sample.image.blobs}
        statuses: list[int] = []
        for url, content in wanted.items():
            answer = await self.get(URL(url), credential)
            assert answer.body == content or answer.status != 200
            statuses.append(answer.status)
        return statuses


@asynccontextmanager
async def plain_client() -> AsyncIterator[PlainClient]:
    """Open a client that begins every request on a new connection."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(auto_decompress=False, connector=connector) as session:
        yield PlainClient(session)
