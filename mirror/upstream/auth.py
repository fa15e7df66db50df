"""What to send in ``Authorization``, remembered for each origin: challenges, tokens and refusals.

    unknown ──401 with a challenge──► known ──► Bearer: a token for the repository ──401──► one new token ──► the answer
                                        └─────► Basic: the credential itself

A credential goes only where the configuration's endpoints lead, never to the origin of a redirect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from mirror.errors import Denied, NotFound
from mirror.upstream.realms import may_be_asked, may_get_credential
from mirror.upstream.tokens import Token, TokenRefused, TokenRequest, basic_authorization, request_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.concurrency.single_flight import SingleFlight
    from mirror.config import Credential, UpstreamConfig
    from mirror.http.challenge import Challenge
    from mirror.ports import Clock, Memory, UpstreamObserver
    from mirror.upstream.sessions import Sessions

log = structlog.get_logger(__name__)

_REFUSED_SECONDS = 300.0  # a credential that was refused is left alone: some services ban whoever keeps trying


@dataclass(frozen=True, slots=True)
class _Known:
    """What an origin asks for."""

    realm: URL | None  # None: Basic
    service: str | None


class Authenticator:
    """The authentication memory of one upstream."""

    def __init__(
        self,
        config: UpstreamConfig,
        sessions: Sessions,
        *,
        tokens: Memory[str],
        flights: SingleFlight[str, Token | TokenRefused],
        observer: UpstreamObserver,
        clock: Clock,
    ) -> None:
        """Join the parts; ``tokens`` and ``flights`` may serve several upstreams."""
        self._config = config
        self._sessions = sessions
        self._tokens = tokens
        self._flights = flights
        self._observer = observer
        self._clock = clock
        self._known: dict[URL, _Known] = {}
        self._own_origins = frozenset(URL(endpoint).origin() for endpoint in config.endpoints)
        self._refused_until = 0.0

    def knows(self, origin: URL) -> bool:
        """Say whether the origin has told what it asks for."""
        return origin in self._known

    def learn(self, origin: URL, challenges: Iterable[Challenge]) -> bool:
        """Remember the first usable challenge, Bearer before Basic; False when there is none."""
        usable = sorted(
            (one for one in challenges if one.scheme in {"bearer", "basic"}), key=lambda one: one.scheme != "bearer"
        )
        for challenge in usable:
            if challenge.scheme == "basic":
                # Harbor asks for Basic when it does not like a token: what it wants is a new one
                self._known.setdefault(origin, _Known(realm=None, service=None))
                return True
            realm = _parse_url(challenge.parameters.get("realm", ""))
            if realm is not None and may_be_asked(realm, origin):
                self._known[origin] = _Known(realm=realm, service=challenge.parameters.get("service"))
                return True
        return False

    def unlearn(self, origin: URL, challenges: Iterable[Challenge]) -> None:
        """Begin anew with an origin that refuses a new token too and now asks for Basic."""
        known = self._known.get(origin)
        if known is not None and known.realm is not None and {one.scheme for one in challenges} == {"basic"}:
            del self._known[origin]

    async def authorization(self, origin: URL, repository: str, *, refused: str | None = None) -> str | None:
        """Return the header's value for a request about one repository; None where nothing is known to be asked for.

        Args:
            origin: scheme, host and port that the request goes to.
            repository: what the token is for.
            refused: the value that was just answered with 401, not to be given again.

        Raises:
            NotFound, Denied: the token service refuses everybody.
            UpstreamError: the token service cannot be asked.
        """
        known = self._known.get(origin)
        if known is None:
            return None
        if known.realm is None:
            return await self._basic(origin, refused)
        credential = self._credential_for(origin, known.realm)
        token = await self._token(known, known.realm, repository, credential, refused)
        return f"Bearer {token}"

    async def _basic(self, origin: URL, refused: str | None) -> str | None:
        credential = self._config.credential
        if credential is None or origin not in self._own_origins or self._is_refused():
            return None
        value = basic_authorization(credential)
        if value == refused:
            if not await self._opens_registry(origin, value):
                self._note_refusal()
            return None
        return value

    async def _opens_registry(self, origin: URL, value: str) -> bool:
        """Say whether a credential that opens no repository opens the registry: that one may be another's."""
        ping = self._sessions.current.get(origin / "v2/", headers={"Authorization": value}, allow_redirects=False)
        async with ping as response:
            return response.status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}

    def _credential_for(self, origin: URL, realm: URL) -> Credential | None:
        credential = self._config.credential
        if credential is None or origin not in self._own_origins or self._is_refused():
            return None
        if not may_get_credential(realm, origin, self._config.token_hosts):
            log.warning("upstream.realm_untrusted", upstream=self._config.name, realm=realm.host)
            return None
        return credential

    async def _token(
        self, known: _Known, realm: URL, repository: str, credential: Credential | None, refused: str | None
    ) -> str:
        request = TokenRequest(realm=realm, service=known.service, repository=repository, credential=credential)
        key = f"{self._config.name}|{request.key()}"
        kept = await self._tokens.find(key)
        if kept is not None and f"Bearer {kept}" != refused:
            return kept
        answer, _ = await self._flights.run(key, lambda: self._renew(key, request))
        if isinstance(answer, Token):
            return answer.text
        if credential is not None:
            if not await self._gets_token(replace(request, repository=None)):
                self._note_refusal()
            return await self._token(known, realm, repository, None, refused)
        message = f"{self._config.name} gives no token for {repository} (its token service answered {answer.status})"
        raise Denied(message) if answer.status == HTTPStatus.FORBIDDEN else NotFound(message)

    async def _renew(self, key: str, request: TokenRequest) -> Token | TokenRefused:
        answer = await self._ask(request)
        if isinstance(answer, Token):
            await self._tokens.put(key, answer.text, ttl_seconds=answer.usable_seconds)
        return answer

    async def _gets_token(self, request: TokenRequest) -> bool:
        """Say whether a token service that refuses a repository (GHCR and GitLab do) accepts the credential."""
        answer, _ = await self._flights.run(f"{self._config.name}|{request.key()}", lambda: self._ask(request))
        return isinstance(answer, Token)

    async def _ask(self, request: TokenRequest) -> Token | TokenRefused:
        return await request_token(
            request,
            self._sessions,
            self._clock,
            upstream=self._config.name,
            time_limit_seconds=self._config.read_timeout_seconds,
        )

    def _is_refused(self) -> bool:
        return self._clock() < self._refused_until

    def _note_refusal(self) -> None:
        if self._is_refused():
            return
        self._refused_until = self._clock() + _REFUSED_SECONDS
        self._observer.auth_failed(self._config.name)
        log.warning("upstream.credential_refused", upstream=self._config.name, next_try_seconds=_REFUSED_SECONDS)


def _parse_url(text: str) -> URL | None:
    try:
        url = URL(text)
    except ValueError:
        return None
    return url if url.host and url.user is None else None
