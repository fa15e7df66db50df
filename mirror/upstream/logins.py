"""Whether a registry takes a credential, asked as ``docker login`` asks: for nothing but to be let in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from mirror.errors import UpstreamFailed
from mirror.upstream.realms import may_be_asked, may_get_credential, parse_realm
from mirror.upstream.tokens import Token, TokenRequest, TokenService, basic_authorization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yarl import URL

    from mirror.config import UpstreamConfig
    from mirror.credentials import Credential
    from mirror.http.challenge import Challenge
    from mirror.ports import Clock
    from mirror.upstream.sessions import Sessions

_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class Verdict(StrEnum):
    """What becomes of a credential that is shown."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNASKED = "not asked for"
    """The registry lets everybody in, and would not say no."""
    UNTRUSTED = "not shown"
    """The token service is outside of the registry's own domain, and not among its ``token_hosts``."""
    UNFIT = "no password"
    """The registry asks for a password; an identity token is for a token service, and is shown to nobody else."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a registry asks for: a token of a service, or, where ``realm`` is None, the credential itself (Basic)."""

    realm: URL | None
    service: str | None = None


def read_demand(challenges: Sequence[Challenge], registry: URL) -> Demand | None:
    """Return the first demand that can be met, Bearer before Basic; None where there is none."""
    for challenge in usable_challenges(challenges):
        if challenge.scheme == "basic":
            return Demand(realm=None)
        realm = parse_realm(challenge.parameters.get("realm", ""))
        if realm is not None and may_be_asked(realm, registry):
            return Demand(realm=realm, service=challenge.parameters.get("service"))
    return None


def usable_challenges(challenges: Sequence[Challenge]) -> list[Challenge]:
    """Return those that can be met, Bearer before Basic."""
    usable = [one for one in challenges if one.scheme in {"bearer", "basic"}]
    return sorted(usable, key=lambda one: one.scheme != "bearer")


async def opens_registry(sessions: Sessions, endpoint: URL, authorization: str, *, upstream: str) -> bool:
    """Ask ``/v2/`` whether somebody is let in at all.

    Raises:
        UpstreamFailed: it cannot tell now.
        aiohttp.ClientError, OSError: it cannot be reached.
    """
    headers = {"Authorization": authorization}
    async with sessions.current.get(endpoint / "v2/", headers=headers, allow_redirects=False) as response:
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise UpstreamFailed(f"{upstream} answered {response.status} to a login", upstream=upstream)
        return response.status not in _REFUSALS


class Login:
    """Logs in to one upstream, without keeping anything."""

    def __init__(self, config: UpstreamConfig, sessions: Sessions, clock: Clock) -> None:
        """Take the upstream's connections."""
        self._config = config
        self._sessions = sessions
        limit_seconds = config.read_timeout_seconds
        self._service = TokenService(sessions, clock, upstream=config.name, time_limit_seconds=limit_seconds)

    async def judge(self, endpoint: URL, challenges: Sequence[Challenge], credential: Credential) -> Verdict:
        """Show a credential to whoever the registry's challenge of ``/v2/`` names.

        Raises:
            UpstreamError: it cannot be asked now.
            aiohttp.ClientError, OSError: it cannot be reached.
        """
        demand = read_demand(challenges, endpoint)
        if demand is None:
            return Verdict.UNASKED
        if demand.realm is not None and not may_get_credential(demand.realm, endpoint, self._config.token_hosts):
            return Verdict.UNTRUSTED
        if demand.realm is None and credential.is_identity_token:
            return Verdict.UNFIT
        value = await self._authorization(demand, endpoint, None, credential)
        return Verdict.REFUSED if value is None else await self._judge_value(endpoint, value)

    async def _judge_value(self, endpoint: URL, authorization: str) -> Verdict:
        is_in = await opens_registry(self._sessions, endpoint, authorization, upstream=self._config.name)
        return Verdict.ACCEPTED if is_in else Verdict.REFUSED

    async def token_for(
        self, challenges: Sequence[Challenge], endpoint: URL, repository: str, credential: Credential | None
    ) -> str | None:
        """Return ``Authorization`` for one repository; None where nothing is asked for or given.

        Raises:
            UpstreamError: the token service cannot be asked now.
        """
        demand = read_demand(challenges, endpoint)
        return None if demand is None else await self._authorization(demand, endpoint, repository, credential)

    async def _authorization(
        self, demand: Demand, registry: URL, repository: str | None, credential: Credential | None
    ) -> str | None:
        """Meet a demand; None where there is no credential to show, or no token is given for it."""
        if demand.realm is None:
            return None if credential is None else basic_authorization(credential)
        request = TokenRequest(
            realm=demand.realm,
            registry=registry,
            service=demand.service,
            repository=repository,
            credential=credential,
        )
        answer = await self._service.request(request)
        return f"Bearer {answer.text}" if isinstance(answer, Token) else None
