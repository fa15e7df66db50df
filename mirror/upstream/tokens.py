"""The token exchange: a Bearer challenge and perhaps a credential in, a token and its lifetime out.

A password is shown by GET, which every token service answers. An identity token is never shown as a password: it is
exchanged by POST, as OAuth 2's refresh token.

Spec: https://github.com/distribution/distribution/blob/v3.0.0/docs/content/spec/auth/token.md
Spec: https://github.com/distribution/distribution/blob/v3.0.0/docs/content/spec/auth/oauth.md
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from mirror.credentials.credential import AZURE_USER
from mirror.errors import RateLimited, UpstreamFailed, UpstreamUnreachable
from mirror.http.retry_after import parse_retry_after
from mirror.upstream.sessions import read_beginning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yarl import URL

    from mirror.credentials import Credential
    from mirror.ports import Clock
    from mirror.upstream.sessions import Sessions

_BODY_LIMIT_BYTES = 1024 * 1024
_SHORTEST_LIFETIME_SECONDS = 60.0
_LONGEST_LIFETIME_SECONDS = 24 * 3600.0
_USED_SHARE = 0.85  # renewed before it ends: a transfer that starts now must not find it ended
_REFUSALS = frozenset({400, 401, 403})
_CLIENT = "mirror"
_DESCRIBED_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Where to ask for which scope, for whom: also the key that a token is kept under.

    Without a repository it asks for nothing, only whether the credential is accepted, as ``docker login`` does.
    """

    realm: URL
    registry: URL
    """Who names the realm."""
    service: str | None
    repository: str | None
    credential: Credential | None

    def key(self) -> str:
        """Return what tells this token from every other; a password that changed makes another one."""
        who = "" if self.credential is None else self.credential.fingerprint
        return f"{who}|{self.realm}|{self.service}|{self.repository}"

    def fields(self) -> dict[str, str]:
        """Return what every way of asking says."""
        fields = {} if self.repository is None else {"scope": f"repository:{self.repository}:pull"}
        return fields | ({"service": self.service} if self.service else {})


@dataclass(frozen=True, slots=True)
class Token:
    """A token, when it arrived and until when it may be used (seconds since the epoch, by our own clock)."""

    text: str
    arrived_at: float
    usable_until: float


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The token service will not give one: an answer, not an outage."""

    status: int


class TokenService:
    """Whoever an upstream names as the one to give its tokens."""

    def __init__(self, sessions: Sessions, clock: Clock, *, upstream: str, time_limit_seconds: float) -> None:
        """Take the upstream's connections; each exchange gets ``time_limit_seconds``."""
        self._sessions = sessions
        self._clock = clock
        self._upstream = upstream
        self._time_limit_seconds = time_limit_seconds

    async def request(self, request: TokenRequest) -> Token | TokenRefused:
        """Ask for the right to pull from a repository.

        Raises:
            UpstreamUnreachable: no answer in time.
            UpstreamFailed: an answer that is no token and no refusal.
            RateLimited: asked too often.
        """
        credential = request.credential
        if credential is None or not credential.is_identity_token:
            return self._read_token(request, *await self._get(request))
        answer = await self._exchange(request, credential.secret)
        if isinstance(answer, TokenRefused) and credential.username == AZURE_USER:
            token = await self._refresh_token_of_azure(request, credential.secret)
            return answer if token is None else await self._exchange(request, token)
        return answer

    async def _get(self, request: TokenRequest) -> tuple[int, bytes, float | None]:
        query, headers = request.fields(), {}
        if request.credential is not None:
            query["account"] = request.credential.username
            headers["Authorization"] = basic_authorization(request.credential)
        return await self._send("GET", request.realm.update_query(query), request.registry, headers=headers)

    async def _exchange(self, request: TokenRequest, refresh_token: str) -> Token | TokenRefused:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": _CLIENT}
        return self._read_token(
            request, *await self._send("POST", request.realm, request.registry, form=form | request.fields())
        )

    async def _refresh_token_of_azure(self, request: TokenRequest, access_token: str) -> str | None:
        """Exchange an Entra token for one of the registry's own; None where it is not one.

        Source: https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md
        """
        form = {"grant_type": "access_token", "service": request.service or "", "access_token": access_token}
        status, body, _ = await self._send("POST", request.realm.with_name("exchange"), request.registry, form=form)
        return _text_of(_object(body), "refresh_token") if status == HTTPStatus.OK else None

    async def _send(
        self,
        method: str,
        url: URL,
        registry: URL,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes, float | None]:
        """Return status, body and what ``Retry-After`` says; never redirected: the credential was for this host."""
        try:
            async with (
                asyncio.timeout(self._time_limit_seconds),
                await self._sessions.request(method, url, named_by=registry, headers=headers, form=form) as response,
            ):
                wait_seconds = parse_retry_after(response.headers.get("Retry-After"), self._clock())
                return response.status, await read_beginning(response, _BODY_LIMIT_BYTES), wait_seconds
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:  # ValueError: a host that cannot be
            message = f"{self._describe(url)} cannot be reached: {describe(error)}"
            raise UpstreamUnreachable(message, upstream=self._upstream) from error

    def _read_token(
        self, request: TokenRequest, status: int, body: bytes, wait_seconds: float | None
    ) -> Token | TokenRefused:
        where = self._describe(request.realm)
        if status in _REFUSALS:
            return TokenRefused(status)
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise RateLimited(f"{where} answered 429", upstream=self._upstream, retry_after_seconds=wait_seconds)
        token = _read_token(body, self._clock()) if status == HTTPStatus.OK else None
        if token is None:
            raise UpstreamFailed(f"{where} answered {status} without a token", upstream=self._upstream)
        return token

    def _describe(self, url: URL) -> str:
        return f"{self._upstream}'s token service {url.host}"


def basic_authorization(credential: Credential) -> str:
    """Return the header's value (RFC 7617)."""
    pair = f"{credential.username}:{credential.secret}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _read_token(body: bytes, now: float) -> Token | None:
    """Read ``token`` or ``access_token``, whichever is not empty: Harbor sends one of them empty."""
    document = _object(body)
    text = _text_of(document, "token") or _text_of(document, "access_token")
    if text is None:
        return None
    lifetime = document.get("expires_in")
    seconds = float(lifetime) if isinstance(lifetime, (int, float)) and lifetime == lifetime else 0.0  # noqa: PLR0124 - NaN
    seconds = min(max(seconds, _SHORTEST_LIFETIME_SECONDS), _LONGEST_LIFETIME_SECONDS)
    return Token(text, now, now + seconds * _USED_SHARE)


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _text_of(document: Mapping[str, Any], name: str) -> str | None:
    """Return a token that can stand in a header."""
    text = document.get(name)
    return text if isinstance(text, str) and text and text.isascii() and text.isprintable() else None


def describe(error: BaseException) -> str:
    """Say what went wrong on a connection, in one line: some of these exceptions have no text of their own.

    Of what could not be parsed they quote much, and a URL that may be a signed one.
    """
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    words = " ".join(text.split()) or type(error).__name__
    return words.encode("ascii", "backslashreplace")[:_DESCRIBED_CHARACTERS].decode()
