"""Azure's container registry."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web

from tests.support.access import Access
from tests.support.faults import Redirect
from tests.support.habits.base import DATA_HOST, Habit, Sample, encode_basic, hide_unknown
from tests.support.images import oci_image
from tests.support.record import Recorded
from tests.support.registry import TestRegistry
from tests.support.replies import Reply, error_reply, json_reply
from tests.support.tokens import BearerGate, TokenService, TokenSettings

NOBODY = "00000000-0000-0000-0000-000000000000"
"""The user name of who has a refresh token for a password."""

_REPOSITORY_TOKEN = ("pull-token", "test+acr/repository/token=")
_PERSON = "mirror@example.onmicrosoft.com"
_REFRESH_TOKENS_LIVE_SECONDS = 3 * 3600
_ACCESS_TOKENS_LIVE_SECONDS = 75 * 60


class Acr(Habit):
    """Tokens for a repository token by GET, for an Entra token by way of a refresh token; a password by POST is 400.

    `credential` is a refresh token under the user `NOBODY`; `repository_token` is a name and password that lasts.
    Source: https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md
    """

    name = "example.azurecr.io"
    tokens: OAuth
    private = Sample("team/app", "1", oci_image(181, layer_bytes=20_000))
    repository_token = _REPOSITORY_TOKEN

    def __init__(self) -> None:
        super().__init__()
        name, password = self.repository_token
        self.access = Access(users={name: password}, private={self.private.repository: {name, _PERSON}})
        self.tokens = OAuth(self.access, service=self.name)
        self.registry = TestRegistry(gate=BearerGate(self.tokens), cdn_address=DATA_HOST)
        self.registry.redirects["blob"] = Redirect()
        hide_unknown(self.access, self.registry)
        self._refresh_token = self.tokens.make_refresh_token(_PERSON)

    @property
    def credential(self) -> tuple[str, str]:
        """A refresh token that has not ended."""
        if self.tokens.find_owner(self._refresh_token) is None:
            self._refresh_token = self.tokens.make_refresh_token(_PERSON)
        return NOBODY, self._refresh_token

    def end_credential(self) -> None:
        """Let three hours pass, in which access tokens end too."""
        self.tokens.clock.advance(_REFRESH_TOKENS_LIVE_SECONDS)

    @property
    def secrets(self) -> set[str]:
        """Every text that must not be seen, Entra's token and refresh tokens as Basic sends them too."""
        basics = {encode_basic(NOBODY, token) for token in self.tokens.refresh_tokens}
        return super().secrets | {self.tokens.entra_token} | basics


class OAuth(TokenService):
    """The registry's OAuth 2 endpoints: ``/oauth2/exchange`` and ``/oauth2/token``."""

    def __init__(self, access: Access, *, service: str) -> None:
        settings = TokenSettings(
            path="/oauth2/token",
            service=service,
            fields={"access_token": "{}"},
            expires_in_seconds=_ACCESS_TOKENS_LIVE_SECONDS,
            tells_expires_in=False,
            denied_anonymous_status=401,
            scopeless_anonymous_status=401,
        )
        super().__init__(access, settings=settings)
        self.tenant = "12345678-0000-0000-0000-000000000000"
        self.entra_token = f"test-entra-{secrets.token_urlsafe(24)}"
        self.refresh_tokens: dict[str, float] = {}  # when each ends, in seconds since the epoch

    def make_refresh_token(self, user: str) -> str:
        """Return a refresh token for three hours."""
        made = super().make_refresh_token(user)
        self.refresh_tokens[made] = self.clock.now() + _REFRESH_TOKENS_LIVE_SECONDS
        return made

    def find_owner(self, refresh_token: str) -> str | None:
        """Return whose refresh token this is, unless it has ended."""
        has_ended = self.refresh_tokens.get(refresh_token, 0.0) <= self.clock.now()
        return None if has_ended else super().find_owner(refresh_token)

    def identify(self, name: str, password: str) -> str | None:
        """Return the user of a repository token, or of a refresh token in the place of a password."""
        return self.find_owner(password) if name == NOBODY else super().identify(name, password)

    async def answer(self, request: web.BaseRequest, recorded: Recorded | None) -> Reply:
        """Return a token, or a refresh token for one of Entra."""
        if recorded is None or (request.method, urlsplit(request.raw_path).path) != ("POST", "/oauth2/exchange"):
            return await super().answer(request, recorded)
        form = dict(parse_qsl((await request.read()).decode()))
        wanted = {"grant_type": "access_token", "service": self.settings.service, "access_token": self.entra_token}
        if {key: form.get(key) for key in wanted} != wanted or form.get("tenant", self.tenant) != self.tenant:
            return error_reply(401, "UNAUTHORIZED", "authentication required")
        return json_reply({"refresh_token": self.make_refresh_token(_PERSON)})

    def _answer_form(self, recorded: Recorded, form: Mapping[str, str]) -> Reply:
        if form.get("grant_type") != "refresh_token":
            return error_reply(400, "UNSUPPORTED", "grant_type is not supported")
        return super()._answer_form(recorded, form)
