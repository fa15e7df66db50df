"""A token service, and the gate of a registry that wants its tokens.

Spec: https://github.com/distribution/distribution/blob/v3.0.0/docs/content/spec/auth/token.md
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web
from multidict import CIMultiDict

from tests.support.access import Access, read_basic
from tests.support.clock import MovableClock
from tests.support.faults import Fault, FaultList, Redirect
from tests.support.record import Record, Recorded
from tests.support.replies import Reply, error_reply, json_reply
from tests.support.server import LOOPBACK, FaultyServer

ANONYMOUS = "anonymous"
_SCOPE = re.compile(r"[a-z]+(\([a-z]+\))?:[^\s:]+(:[0-9]+/[^\s:]+)?:(\*|[a-z]+)(,(\*|[a-z]+))*")


class Signer(Protocol):
    """Makes tokens that a registry can check by itself."""

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token."""
        ...


@dataclass(slots=True, kw_only=True)
class TokenSettings:
    """The habits in which token services differ; change them at any time."""

    path: str = "/token"
    service: str = "registry.test"
    realm: str | None = None  # what the challenge says, when it is not this service's own URL
    expires_in_seconds: int = 300
    tells_expires_in: bool = True
    fields: Mapping[str, str] = field(default_factory=lambda: {"token": "{}", "access_token": "{}"})  # {} = the token
    bad_credential_status: int = 401
    denied_status: int | None = None  # None: a token with less in it
    denied_anonymous_status: int | None = None  # who has no credential and gets nothing; GHCR: 401, GitLab: 403
    scopeless_anonymous_status: int | None = None  # None: a token for nothing; Quay: 401, GitLab: 403
    malformed_scope_status: int | None = None  # None: as one that is not granted; Quay: 400
    post_status: int | None = None  # what POST answers; None: tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token is good for."""

    user: str | None
    scopes: frozenset[str]
    expires_at: float


class TokenService:
    """Issues tokens; a server of its own, thus another origin than the registry."""

    def __init__(
        self,
        access: Access | None = None,
        *,
        settings: TokenSettings | None = None,
        signer: Signer | None = None,
        port: int = 0,
        address: str = LOOPBACK,
    ) -> None:
        self.access = access or Access()
        self.settings = settings or TokenSettings()
        self.clock = MovableClock()
        self.record = Record()
        self.faults = FaultList()
        self.server = FaultyServer(self, record=self.record, fault_list=self.faults, port=port, address=address)
        self._signer = signer
        self.secrets: set[str] = set()  # every token so far
        self._grants: dict[str, Grant] = {}
        self._refresh_tokens: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port as before if it was stopped."""
        await self.server.start()

    async def stop(self) -> None:
        """Be gone; tokens and record stay."""
        await self.server.stop()

    @property
    def url(self) -> str:
        """Where tokens are asked for."""
        return self.server.base_url + self.settings.path

    @property
    def requests(self) -> list[Recorded]:
        """Every request for a token; `facts` has user, scopes, granted, refused and bad_credential."""
        return self.record.requests

    def fail(self, *faults: Fault) -> None:
        """Set faults."""
        self.faults.add(*faults)

    def heal(self) -> None:
        """Take every fault away and let go what is held."""
        self.faults.clear()
        self.server.release()

    def revoke_all(self) -> None:
        """Make every token so far invalid; signed ones stay valid for a registry that checks the signature."""
        self._grants.clear()

    def find_grant(self, token: str) -> Grant | None:
        """Return what a token is good for, or None if it is unknown, revoked or expired."""
        grant = self._grants.get(token)
        return grant if grant is not None and self.clock.now() < grant.expires_at else None

    # Site: what the server asks of us

    def recognise(self, request: web.BaseRequest) -> Recorded:
        """Write a request down; a password is not."""
        headers = CIMultiDict(request.headers)
        return Recorded(
            method=request.method,
            path=request.raw_path.partition("?")[0],
            query=dict(request.rel_url.query),
            headers=headers,
            kind="token",
            reference=request.rel_url.query.get("scope"),
            facts={"scopes": request.rel_url.query.getall("scope", [])},
        )

    async def answer(self, request: web.BaseRequest, recorded: Recorded | None) -> Reply:
        """Return a token, or the refusal of a credential."""
        if recorded is None or urlsplit(request.raw_path).path != self.settings.path:
            return error_reply(404, "UNSUPPORTED", "no such page")
        if request.method == "POST":
            return self._answer_form(recorded, dict(parse_qsl((await request.read()).decode())))
        credential = read_basic(recorded.headers)
        user = self.identify(*credential) if credential is not None else None
        if credential is not None and user is None:
            return self._refuse_credential(recorded)
        offline = recorded.query.get("offline_token") == "true"
        return self._issue(recorded, user, recorded.facts["scopes"], offline=offline)

    def locate(self, recorded: Recorded, redirect: Redirect) -> str:
        """Return the same path on another server, or here."""
        return (redirect.to or "") + recorded.path

    def identify(self, name: str, password: str) -> str | None:
        """Return the user of a name and password, or of a refresh token."""
        if name == "<token>":
            return self.find_owner(password)
        return name if self.access.knows(name, password) else None

    def find_owner(self, refresh_token: str) -> str | None:
        """Return whose refresh token this is."""
        return self._refresh_tokens.get(refresh_token)

    def make_refresh_token(self, user: str) -> str:
        """Return a new refresh token of a user."""
        refresh_token = secrets.token_urlsafe(24)
        self.secrets.add(refresh_token)
        self._refresh_tokens[refresh_token] = user
        return refresh_token

    def _answer_form(self, recorded: Recorded, form: Mapping[str, str]) -> Reply:
        """Answer the OAuth 2 way of asking.

        Spec: https://github.com/distribution/distribution/blob/v3.0.0/docs/content/spec/auth/oauth.md
        """
        if self.settings.post_status is not None:
            return error_reply(self.settings.post_status, "UNSUPPORTED", "only GET gives tokens here")
        recorded.facts["scopes"] = scopes = form.get("scope", "").split()
        user: str | None = form.get("username", "")
        if form.get("grant_type") == "refresh_token":
            user = self.find_owner(form.get("refresh_token", ""))
        elif not self.access.knows(user or "", form.get("password", "")):
            user = None
        if user is None:
            return self._refuse_credential(recorded)
        return self._issue(recorded, user, scopes, offline=form.get("access_type") == "offline")

    def _issue(self, recorded: Recorded, user: str | None, scopes: list[str], *, offline: bool) -> Reply:
        recorded.facts["user"] = user
        wanted = [scope for text in scopes for scope in text.split()]
        granted = [less for scope in wanted if (less := self._reduce(user, scope)) is not None]
        recorded.facts["granted"] = granted
        status = self._refusal(user, wanted, granted)
        if status is not None:
            return self._refuse(recorded, status)
        token = self._make_token(user, granted)
        answer: dict[str, Any] = {name: text.format(token) for name, text in self.settings.fields.items()}
        if self.settings.tells_expires_in:
            issued_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock.now()))
            answer |= {"expires_in": self.settings.expires_in_seconds, "issued_at": issued_at}
        if offline and user is not None:
            answer["refresh_token"] = self.make_refresh_token(user)
        return json_reply(answer)

    def _refusal(self, user: str | None, wanted: list[str], granted: list[str]) -> int | None:
        """Return the status for who gets no token, though nothing is wrong with the credential."""
        settings = self.settings
        if not all(_SCOPE.fullmatch(scope) for scope in wanted) and settings.malformed_scope_status is not None:
            return settings.malformed_scope_status
        if user is None and not wanted:
            return settings.scopeless_anonymous_status
        if user is None and not granted and settings.denied_anonymous_status is not None:
            return settings.denied_anonymous_status
        return settings.denied_status if len(granted) < len(wanted) else None

    def _make_token(self, user: str | None, granted: list[str]) -> str:
        now = self.clock.now()
        grant = Grant(user=user, scopes=frozenset(granted), expires_at=now + self.settings.expires_in_seconds)
        token = secrets.token_urlsafe(24)
        if self._signer is not None:
            token = self._signer.sign(
                {
                    "aud": self.settings.service,
                    "sub": user or "",
                    "nbf": int(now) - 10,
                    "iat": int(now),
                    "exp": int(grant.expires_at),
                    "jti": secrets.token_hex(8),
                    "access": [_claim(scope) for scope in granted],
                }
            )
        self._grants[token] = grant
        self.secrets.add(token)
        return token

    def _reduce(self, user: str | None, scope: str) -> str | None:
        """Return what of a scope is granted: pulling, if that is allowed, and nothing else."""
        kind, name, actions = _split_scope(scope)
        is_granted = kind == "repository" and "pull" in actions and self.access.allows(user, name)
        return f"repository:{name}:pull" if is_granted else None

    def _refuse_credential(self, recorded: Recorded) -> Reply:
        recorded.facts["bad_credential"] = True
        return self._refuse(recorded, self.settings.bad_credential_status)

    def _refuse(self, recorded: Recorded, status: int) -> Reply:
        recorded.facts["refused"] = True
        code = "DENIED" if status == web.HTTPForbidden.status_code else "UNAUTHORIZED"
        return error_reply(status, code, "denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What a 401 of a registry says."""

    realm: str
    service: str
    scope: str | None
    error: str | None


def write_challenge(challenge: Challenge) -> str:
    """Write the header as Docker Hub and distribution do."""
    parts = [f'realm="{challenge.realm}"', f'service="{challenge.service}"']
    parts += [f'scope="{challenge.scope}"'] if challenge.scope else []
    parts += [f'error="{challenge.error}"'] if challenge.error else []
    return "Bearer " + ",".join(parts)


class BearerGate:
    """Wants a token of a service; `write` may be replaced for registries that word their challenge otherwise."""

    def __init__(self, tokens: TokenService, *, write: Callable[[Challenge], str] = write_challenge) -> None:
        self.tokens = tokens
        self.write = write

    def check(self, recorded: Recorded) -> Reply | None:
        """Refuse who brings no token, an old one, or one for something else."""
        scope = scope_of(recorded)
        scheme, _, token = recorded.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return self.refuse(scope, None)
        grant = self.tokens.find_grant(token)
        if grant is None:
            return self.refuse(scope, "invalid_token")
        recorded.facts["user"] = grant.user or ANONYMOUS
        return self.refuse(scope, "insufficient_scope") if scope and scope not in grant.scopes else None

    def refuse(self, scope: str | None, error: str | None) -> Reply:
        """Return the 401; ``error`` is that of the challenge, None where no token came."""
        settings = self.tokens.settings
        realm = settings.realm or self.tokens.url
        code, message = "UNAUTHORIZED", "authentication required"
        if error == "insufficient_scope":
            code, message = "DENIED", "requested access to the resource is denied"
        refused = error_reply(401, code, message)
        challenge = Challenge(realm=realm, service=settings.service, scope=scope, error=error)
        refused.headers["WWW-Authenticate"] = self.write(challenge)
        return refused


def scope_of(recorded: Recorded) -> str | None:
    """Return the scope that a request needs; None for what is no repository's."""
    return f"repository:{recorded.repository}:pull" if recorded.repository else None


def _split_scope(scope: str) -> tuple[str, str, list[str]]:
    """Split ``type:name:actions``; the name may have a colon."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return kind, name, actions.split(",")


def _claim(scope: str) -> dict[str, Any]:
    kind, name, actions = _split_scope(scope)
    return {"type": kind, "name": name, "actions": actions}
