"""GitLab's registry, self-managed or not."""

from __future__ import annotations

from aiohttp import web
from multidict import CIMultiDict

from tests.support.access import Access
from tests.support.content import body_of
from tests.support.habits.base import OTHER_HOST, Habit, Sample, hide_unknown
from tests.support.images import docker_image, oci_image
from tests.support.record import Recorded
from tests.support.registry import TestRegistry
from tests.support.replies import Reply
from tests.support.tokens import BearerGate, TokenService, TokenSettings

_TOKENS_LIVE_SECONDS = 300


class GitLab(Habit):
    """Tokens come from the web host, which is another one and bans who keeps trying wrong passwords."""

    name = "registry.gitlab.com"
    tokens: WebHost
    public = Sample("group/public/app", "1", oci_image(121, layer_bytes=20_000))
    private = Sample("group/private/app", "1", docker_image(122, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        users = {"gitlab+deploy-token-1": "gldt-test-deploy-token"}
        self.access = Access(users=users, private={self.private.repository: set(users)})
        self.tokens = WebHost(self.access)
        self.registry = TestRegistry(gate=BearerGate(self.tokens))
        hide_unknown(self.access, self.registry)

    def settings(self) -> dict[str, object]:
        """Return the mirror's flags, with the web host as one that may be sent the credential."""
        return {**super().settings(), f"upstreams.{self.name}.token_hosts": [OTHER_HOST]}


class WebHost(TokenService):
    """GitLab itself: gives tokens, and counts wrong passwords; set `bad_attempts` to 0 to lift a ban."""

    def __init__(self, access: Access) -> None:
        settings = TokenSettings(
            path="/jwt/auth",
            service="container_registry",
            fields={"token": "{}"},
            expires_in_seconds=_TOKENS_LIVE_SECONDS,
            tells_expires_in=False,
            bad_credential_status=403,
            denied_anonymous_status=403,
            scopeless_anonymous_status=403,
            post_status=404,
        )
        super().__init__(access, settings=settings, address=OTHER_HOST)
        self.bad_attempts = 0
        self.ban_after = 10
        self.ban_status = 403  # or 429

    @property
    def is_banning(self) -> bool:
        """Whether the address of the client is banned: everything it asks is refused, a right password too."""
        return self.bad_attempts >= self.ban_after

    async def answer(self, request: web.BaseRequest, recorded: Recorded | None) -> Reply:
        """Return a token, a refusal, or the plain text of Rack::Attack."""
        if self.is_banning:
            headers = CIMultiDict({"Content-Type": "text/plain"})
            return Reply(status=self.ban_status, headers=headers, body=body_of(b"Forbidden\n"))
        reply = await super().answer(request, recorded)
        if recorded is not None and "bad_credential" in recorded.facts:
            self.bad_attempts += 1
        return reply
