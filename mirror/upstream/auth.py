"""What to send in ``Authorization``, remembered for each origin: challenges, tokens, and who may see a credential.

    unknown ──401 with a challenge──► known ──► Bearer: a token for the repository ──401──► one new token ──► the answer
                                        └─────► Basic: the credential itself

A credential goes only where the configuration's endpoints lead, never to the origin of a redirect. One that is refused
(`mirror.upstream.standing`) is left alone, and requests go without it: public content needs none.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from mirror.errors import Denied, NotFound, UpstreamUnreachable
from mirror.upstream.logins import Demand, opens_registry, read_demand
from mirror.upstream.realms import may_get_credential
from mirror.upstream.tokens import Token, TokenRefused, TokenRequest, TokenService, basic_authorization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.concurrency.single_flight import SingleFlight
    from mirror.config import UpstreamConfig
    from mirror.credentials import Credential
    from mirror.credentials.sources import CredentialSource
    from mirror.http.challenge import Challenge
    from mirror.ports import Clock, Memory
    from mirror.upstream.sessions import Sessions
    from mirror.upstream.standing import Standing

log = structlog.get_logger(__name__)

_REPOSITORIES = 10_000  # of which is remembered whether a credential opened them
_FRESH_SECONDS = 5.0  # a token that is younger is not to blame for a refusal
_CREDENTIALS = 2  # a program or a cloud may have another one when the first is refused


@dataclass(frozen=True, slots=True)
class Authorization:
    """The header's value; whether it is too new to be blamed for a refusal; the credential behind it, if one is."""

    value: str
    is_fresh: bool
    credential: Credential | None

    @property
    def is_basic(self) -> bool:
        """Whether it is the credential itself."""
        return self.value.startswith("Basic ")


class Authenticator:
    """The authentication memory of one upstream."""

    def __init__(
        self,
        config: UpstreamConfig,
        sessions: Sessions,
        source: CredentialSource,
        standing: Standing,
        *,
        tokens: Memory[Token],
        flights: SingleFlight[str, Token | TokenRefused],
        clock: Clock,
    ) -> None:
        """Join the parts; ``tokens`` and ``flights`` may serve several upstreams."""
        self._config = config
        self._sessions = sessions
        self._source = source
        self._standing = standing
        self._tokens = tokens
        self._flights = flights
        self._clock = clock
        limit_seconds = config.read_timeout_seconds
        self._service = TokenService(sessions, clock, upstream=config.name, time_limit_seconds=limit_seconds)
        self._known: dict[URL, Demand] = {}
        self._endpoints = {URL(endpoint).origin(): URL(endpoint) for endpoint in config.endpoints}
        self._opened: OrderedDict[str, bool] = OrderedDict()

    def base(self, origin: URL) -> URL:
        """Return what ``/v2/`` is below: an endpoint may have a path, of a redirect's origin nothing is known."""
        return self._endpoints.get(origin, origin)

    def known(self, origin: URL) -> Demand | None:
        """Return what an origin has told that it asks for."""
        return self._known.get(origin)

    def learn(self, origin: URL, challenges: Sequence[Challenge]) -> bool:
        """Remember what is asked for; False when that is nothing that can be met."""
        demand = read_demand(challenges, origin)
        if demand is None:
            return False
        if demand.realm is None:
            # Harbor asks for Basic when it does not like a token: what it wants is a new one
            self._known.setdefault(origin, demand)
        else:
            self._known[origin] = demand
        return True

    def unlearn(self, origin: URL, challenges: Sequence[Challenge]) -> None:
        """Begin anew with an origin that refuses a new token too and now asks for Basic."""
        known = self._known.get(origin)
        if known is not None and known.realm is not None and {one.scheme for one in challenges} == {"basic"}:
            del self._known[origin]

    def is_opened_by_credential(self, repository: str) -> bool:
        """Say whether a credential was shown the last time that this repository was asked about."""
        return self._opened.get(repository, True)

    async def prepare(self) -> None:
        """Have the credential at hand: a program that is asked for it may take longer than an answer may."""
        await self._source.find()

    async def describe_credential(self) -> tuple[str, bool]:
        """Say where the credential is from and what became of it, and whether it is refused."""
        credential = await self._source.find()
        if credential is None:
            return "none", False
        said = f"from {credential.place}: {self._standing.describe(credential)}"
        return said, self._standing.is_refused(credential)

    async def authorization(
        self, origin: URL, repository: str, *, refused: Authorization | None = None
    ) -> Authorization | None:
        """Return what to send with a request about one repository; None where nothing is known to be asked for.

        Args:
            origin: scheme, host and port that the request goes to.
            repository: what the token is for.
            refused: what was just answered with 401, not to be given again.

        Raises:
            NotFound, Denied: the token service refuses everybody.
            UpstreamError: the token service cannot be asked.
        """
        known = self._known.get(origin)
        if refused is not None and refused.credential is not None:
            await self._source.look_again()
        found = None
        if known is not None and known.realm is None:
            found = await self._basic(origin, refused)
        elif known is not None and known.realm is not None:
            found = await self._bearer(origin, known, known.realm, repository, refused)
        if origin in self._endpoints:
            self._note_opened(repository, found)
        return found

    def _note_opened(self, repository: str, found: Authorization | None) -> None:
        self._opened[repository] = found is not None and found.credential is not None
        self._opened.move_to_end(repository)
        if len(self._opened) > _REPOSITORIES:
            self._opened.popitem(last=False)

    # ---- Basic

    async def _basic(self, origin: URL, refused: Authorization | None) -> Authorization | None:
        for _ in range(_CREDENTIALS):
            credential = await self._find_credential(origin, None)
            if credential is None:
                return None
            value = basic_authorization(credential)
            is_blamed = refused is not None and refused.value == value
            if is_blamed and self._standing.is_surely_accepted(credential):
                return None  # it opens the registry: this repository may be another's
            async with self._standing.trying(credential) as may_be_shown:
                if may_be_shown and await self._is_accepted(origin, credential, ask=is_blamed):
                    return None if is_blamed else Authorization(value, is_fresh=False, credential=credential)
        return None

    async def _is_accepted(self, origin: URL, credential: Credential, *, ask: bool) -> bool:
        if self._standing.is_accepted(credential) and not ask:
            return True
        value = basic_authorization(credential)
        if await opens_registry(self._sessions, self.base(origin), value, upstream=self._config.name):
            self._standing.note_accepted(credential)
            return True
        await self._note_refused(credential)
        return False

    # ---- Bearer

    async def _bearer(
        self, origin: URL, known: Demand, realm: URL, repository: str, refused: Authorization | None
    ) -> Authorization:
        anonymous = TokenRequest(
            realm=realm, registry=origin, service=known.service, repository=repository, credential=None
        )
        shown: Credential | None = None
        for _ in range(_CREDENTIALS):
            credential = await self._find_credential(origin, realm)
            if credential is None or credential == shown:  # the same again: it is the repository that is refused
                break
            request = replace(anonymous, credential=credential)
            answer = await self._token(request, refused)
            if isinstance(answer, Token):
                return self._authorization(answer, credential)
            shown = credential
        answer = await self._token(anonymous, refused)
        if isinstance(answer, Token):
            return self._authorization(answer, None)
        name = self._config.name
        message = f"{name} gives no token for {repository} (its token service answered {answer.status})"
        raise Denied(message) if answer.status == HTTPStatus.FORBIDDEN else NotFound(message)

    def _authorization(self, token: Token, credential: Credential | None) -> Authorization:
        is_fresh = self._clock() - token.arrived_at < _FRESH_SECONDS
        return Authorization(f"Bearer {token.text}", is_fresh=is_fresh, credential=credential)

    async def _token(self, request: TokenRequest, refused: Authorization | None) -> Token | TokenRefused:
        key = f"{self._config.name}|{request.key()}"
        kept = await self._tokens.find(key)
        if kept is not None and self._clock() < kept.usable_until and not _is_of(kept, refused):
            return kept
        answer, _ = await self._flights.run(key, lambda: self._renew(key, request))
        return answer

    async def _renew(self, key: str, request: TokenRequest) -> Token | TokenRefused:
        answer = await self._request(request)
        if isinstance(answer, Token):
            await self._tokens.put(key, answer, ttl_seconds=answer.usable_until - answer.arrived_at)
        return answer

    async def _request(self, request: TokenRequest) -> Token | TokenRefused:
        """Ask for a token, and take note of what the service thinks of the credential.

        Raises:
            UpstreamError: the service cannot be asked.
        """
        credential = request.credential
        if credential is None:
            return await self._service.request(request)
        try:
            # the wait for others who try it is limited too
            async with asyncio.timeout(2 * self._config.read_timeout_seconds):
                async with self._standing.trying(credential) as may_be_shown:
                    if not may_be_shown:
                        return TokenRefused(HTTPStatus.UNAUTHORIZED)
                    return await self._show(request, credential)
        except TimeoutError as error:
            message = f"{self._config.name}'s token service gave no answer in time"
            raise UpstreamUnreachable(message, upstream=self._config.name) from error

    async def _show(self, request: TokenRequest, credential: Credential) -> Token | TokenRefused:
        answer = await self._service.request(request)
        if isinstance(answer, Token):
            self._standing.note_accepted(credential)
        elif not self._standing.is_surely_accepted(credential):
            # GHCR and GitLab refuse a repository here, as they refuse a credential: asking for nothing tells which
            for_nothing = replace(request, repository=None)
            asked = None if request.repository is None else await self._service.request(for_nothing)
            if isinstance(asked, Token):
                self._standing.note_accepted(credential)
            else:
                await self._note_refused(credential)
        return answer

    # ---- who may see a credential

    async def _find_credential(self, origin: URL, realm: URL | None) -> Credential | None:
        """Return the credential to show for this origin, to this token service; None to go without."""
        if origin not in self._endpoints:
            return None
        credential = await self._source.find()
        if credential is None or self._standing.is_refused(credential):
            return None
        if realm is None:
            return None if credential.is_identity_token else credential
        if not may_get_credential(realm, origin, self._config.token_hosts):
            log.warning("upstream.realm_untrusted", upstream=self._config.name, realm=realm.host)
            return None
        return credential

    async def _note_refused(self, credential: Credential) -> None:
        await self._source.forget(credential)
        await self._standing.note_refused(credential)


def _is_of(token: Token, authorization: Authorization | None) -> bool:
    return authorization is not None and authorization.value == f"Bearer {token.text}"
