"""What an operator wants to know of an upstream: can it be reached, what does it ask for, does it take the credential.

Nothing is cached, stored or remembered by this, and nothing that an upstream counts is asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from mirror.errors import UpstreamError
from mirror.http.challenge import parse_challenges
from mirror.upstream.limits import RateLimit
from mirror.upstream.logins import Login, Verdict, usable_challenges
from mirror.upstream.realms import parse_realm
from mirror.upstream.tokens import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mirror.config import UpstreamConfig
    from mirror.credentials import Credential
    from mirror.credentials.sources import CredentialSource
    from mirror.http.challenge import Challenge
    from mirror.ports import Clock
    from mirror.upstream.sessions import Sessions

_ANSWER_SECONDS: Final = 10.0
_LIMIT_REPOSITORY: Final = "ratelimitpreview/test"
"""Docker Hub's own for this question; a HEAD of its manifest tells the limit and counts for nothing.

Source: https://docs.docker.com/docker-hub/usage/pulls/#view-pull-rate-and-limit
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found out about one upstream; ``faults`` are what somebody has to mend, in words."""

    upstream: str
    is_reachable: bool
    auth: str
    credential: str
    limit: str
    faults: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Greeting:
    """What an endpoint answers to ``GET /v2/``."""

    endpoint: URL
    status: int
    challenges: Sequence[Challenge]
    headers: Mapping[str, str]


class Inspector:
    """Inspects one upstream."""

    def __init__(self, config: UpstreamConfig, sessions: Sessions, source: CredentialSource, clock: Clock) -> None:
        """Join the parts."""
        self._config = config
        self._sessions = sessions
        self._source = source
        self._clock = clock
        self._login = Login(config, sessions, clock)
        self._faults: list[str] = []

    async def inspect(self) -> Finding:
        """Find everything out."""
        greetings = [await self._greet(URL(endpoint)) for endpoint in self._config.endpoints]
        heard = [greeting for greeting in greetings if greeting is not None]
        credential = await self._source.find()
        if self._source.failure is not None:
            self._faults.append(self._source.failure)
        verdict = await self._judge(heard, credential)
        return Finding(
            upstream=self._config.name,
            is_reachable=bool(heard),
            auth=_describe_auth(heard[0].challenges) if heard else "unknown",
            credential=_describe_credential(credential, verdict),
            limit=await self._describe_limit(heard, credential if verdict is Verdict.ACCEPTED else None),
            faults=tuple(self._faults),
        )

    async def judge(self, credential: Credential) -> Verdict:
        """Say what becomes of a credential, as the first endpoint that can be reached sees it.

        Raises:
            UpstreamError: none can be.
        """
        for endpoint in self._config.endpoints:
            greeting = await self._greet(URL(endpoint))
            if greeting is not None:
                return await self._judge_one(greeting, credential)
        raise UpstreamError(self._faults[0], upstream=self._config.name)

    async def _greet(self, endpoint: URL) -> _Greeting | None:
        try:
            async with (
                asyncio.timeout(_ANSWER_SECONDS),
                self._sessions.current.get(endpoint / "v2/", allow_redirects=False) as response,
            ):
                greeting = _Greeting(
                    endpoint=endpoint,
                    status=response.status,
                    challenges=parse_challenges(response.headers.getall("WWW-Authenticate", ())),
                    headers=response.headers,
                )
        except (aiohttp.ClientError, OSError) as error:
            self._faults.append(f"{endpoint} cannot be reached: {describe(error)}")
            return None
        if not (greeting.status in {200, 401} or greeting.challenges):
            self._faults.append(f"{endpoint} answers {greeting.status} at /v2/: is it a registry?")
        return greeting

    async def _judge(self, heard: Sequence[_Greeting], credential: Credential | None) -> Verdict | None:
        if not heard or credential is None:
            return None
        try:
            verdict = await self._judge_one(heard[0], credential)
        except UpstreamError as error:
            self._faults.append(str(error))
            return None
        who = f"the credential of {credential.username or 'an identity token'} ({credential.place})"
        if verdict is Verdict.REFUSED:
            self._faults.append(f"{who} is refused; log in again, or remove it: public images are pulled without it")
        elif verdict is Verdict.UNTRUSTED:
            realm = _describe_auth(heard[0].challenges)
            self._faults.append(f"{who} is not shown to {realm}: if that is right, list its host in token_hosts")
        elif verdict is Verdict.UNFIT:
            wanted = f"{self._config.name} asks for a password; log in with one"
            self._faults.append(f"{who} is not shown: {wanted}")
        return verdict

    async def _judge_one(self, greeting: _Greeting, credential: Credential) -> Verdict:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._login.judge(greeting.endpoint, greeting.challenges, credential)
        except (aiohttp.ClientError, OSError) as error:
            message = f"{greeting.endpoint} cannot be reached: {describe(error)}"
            raise UpstreamError(message, upstream=self._config.name) from error

    async def _describe_limit(self, heard: Sequence[_Greeting], credential: Credential | None) -> str:
        if not heard:
            return "unknown"
        limit = RateLimit()
        is_told = limit.note_headers(heard[0].headers, self._clock())
        if self._config.name == "docker.io":
            is_told = limit.note_headers(await self._ask_limit(heard[0], credential), self._clock()) or is_told
        if not is_told:
            return "not told"
        return f"{_number(limit.remaining)} of {_number(limit.limit)} left"

    async def _ask_limit(self, greeting: _Greeting, credential: Credential | None) -> Mapping[str, str]:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                value = await self._login.token_for(
                    greeting.challenges, greeting.endpoint, _LIMIT_REPOSITORY, credential
                )
                url = greeting.endpoint / f"v2/{_LIMIT_REPOSITORY}/manifests/latest"
                headers = {} if value is None else {"Authorization": value}
                async with self._sessions.current.head(url, headers=headers, allow_redirects=False) as response:
                    return response.headers
        except (aiohttp.ClientError, OSError, UpstreamError):
            return {}  # the limit is news, not a fault


def _describe_auth(challenges: Sequence[Challenge]) -> str:
    usable = usable_challenges(challenges)
    if not usable:
        return "none"
    if usable[0].scheme == "basic":
        return "Basic"
    realm = parse_realm(usable[0].parameters.get("realm", ""))
    return "Bearer" if realm is None else f"Bearer, tokens from {realm.host}"


def _describe_credential(credential: Credential | None, verdict: Verdict | None) -> str:
    if credential is None:
        return "none"
    return f"{credential.username or 'identity token'} ({credential.place}): {verdict or 'not checked'}"


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)
