"""The token exchange: a Bearer challenge and perhaps a credential in, a token and its lifetime out.

Spec: https://github.com/distribution/distribution/blob/v3.0.0/docs/content/spec/auth/token.md
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from mirror.errors import RateLimited, UpstreamFailed, UpstreamUnreachable
from mirror.http.retry_after import parse_retry_after

if TYPE_CHECKING:
    from yarl import URL

    from mirror.config import Credential
    from mirror.ports import Clock
    from mirror.upstream.sessions import Sessions

_BODY_LIMIT_BYTES = 1024 * 1024
_SHORTEST_LIFETIME_SECONDS = 60.0
_LONGEST_LIFETIME_SECONDS = 24 * 3600.0
_USED_SHARE = 0.85  # renewed before it ends: a transfer that starts now must not find it ended
_REFUSALS = frozenset({400, 401, 403})


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Where to ask for which scope, for whom: also the key that a token is kept under.

    Without a repository it asks for nothing, only whether the credential is accepted, as ``docker login`` does.
    """

    realm: URL
    service: str | None
    repository: str | None
    credential: Credential | None

    def key(self) -> str:
        """Return what tells this token from every other; a password that changed makes another one."""
        who = "" if self.credential is None else f"{self.credential.username}:{hash(self.credential.password)}"
        return f"{who}|{self.realm}|{self.service}|{self.repository}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and for how long it may be used, in seconds from its arrival."""

    text: str
    usable_seconds: float


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The token service will not give one: an answer, not an outage."""

    status: int


async def request_token(
    request: TokenRequest, sessions: Sessions, clock: Clock, *, upstream: str, time_limit_seconds: float
) -> Token | TokenRefused:
    """Ask a token service for the right to pull from a repository.

    Raises:
        UpstreamUnreachable: no answer in time.
        UpstreamFailed: an answer that is no token and no refusal.
        RateLimited: asked too often.
    """
    where = f"{upstream}'s token service {request.realm.host}"
    query = {}
    if request.repository is not None:
        query["scope"] = f"repository:{request.repository}:pull"
    if request.service:
        query["service"] = request.service
    headers = {}
    if request.credential is not None:
        query["account"] = request.credential.username
        headers["Authorization"] = basic_authorization(request.credential)
    try:
        async with (
            asyncio.timeout(time_limit_seconds),
            # never redirected: the credential was for this host
            sessions.current.get(request.realm.update_query(query), headers=headers, allow_redirects=False) as response,
        ):
            body = await _read_body(response)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise UpstreamUnreachable(f"{where} cannot be reached: {describe(error)}", upstream=upstream) from error
    if response.status in _REFUSALS:
        return TokenRefused(response.status)
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        wait_seconds = parse_retry_after(response.headers.get("Retry-After"), clock())
        raise RateLimited(f"{where} answered 429", upstream=upstream, retry_after_seconds=wait_seconds)
    token = _read_token(body) if response.status == HTTPStatus.OK else None
    if token is None:
        raise UpstreamFailed(f"{where} answered {response.status} without a token", upstream=upstream)
    return token


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read to the end or the limit; one ``read`` returns as little as has come."""
    body = bytearray()
    while len(body) < _BODY_LIMIT_BYTES and (chunk := await response.content.readany()):
        body += chunk
    return bytes(body)


def basic_authorization(credential: Credential) -> str:
    """Return the header's value (RFC 7617)."""
    pair = f"{credential.username}:{credential.password}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _read_token(body: bytes) -> Token | None:
    """Read ``token`` or ``access_token``, whichever is not empty: Harbor sends one of them empty."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    text = document.get("token") or document.get("access_token")
    if not isinstance(text, str) or not text.isascii() or not text.isprintable():
        return None
    lifetime = document.get("expires_in")
    seconds = float(lifetime) if isinstance(lifetime, (int, float)) and lifetime == lifetime else 0.0  # noqa: PLR0124 - NaN
    seconds = min(max(seconds, _SHORTEST_LIFETIME_SECONDS), _LONGEST_LIFETIME_SECONDS)
    return Token(text, seconds * _USED_SHARE)


def describe(error: BaseException) -> str:
    """Say what went wrong on a connection, in words: many of these exceptions have no text of their own."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
