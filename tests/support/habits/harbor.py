"""Harbor."""

from __future__ import annotations

from tests.support.access import Access, read_basic
from tests.support.habits.base import Habit, Sample, hide_unknown
from tests.support.images import docker_image, oci_image
from tests.support.record import Recorded
from tests.support.registry import TestRegistry
from tests.support.replies import Reply, error_reply
from tests.support.tokens import BearerGate, Challenge, TokenService, TokenSettings, scope_of, write_challenge

_TOKENS_LIVE_SECONDS = 1800


class Harbor(Habit):
    """Challenges everything, and asks for Basic instead of Bearer as soon as it does not like an ``Authorization``."""

    name = "harbor.example"
    tokens: TokenService
    public = Sample("library/app", "1", docker_image(191, layer_bytes=20_000))
    private = Sample("proj/app", "1", oci_image(192, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.access = Access(users={"robot$proj+ci": "TestHarborRobotSecret1"}, private={"proj/app": {"robot$proj+ci"}})
        settings = TokenSettings(
            path="/service/token",
            service="harbor-registry",
            fields={"token": "{}", "access_token": ""},
            expires_in_seconds=_TOKENS_LIVE_SECONDS,
        )
        self.tokens = TokenService(self.access, settings=settings)
        self.registry = TestRegistry(gate=_Gate(self.tokens, write=_write_challenge))
        hide_unknown(self.access, self.registry)


class _Gate(BearerGate):
    def check(self, recorded: Recorded) -> Reply | None:
        credential = read_basic(recorded.headers)
        if credential is None and "Authorization" in recorded.headers:
            return super().check(recorded)
        if credential is None:
            return self.refuse(scope_of(recorded), None)
        access, name = self.tokens.access, recorded.repository
        is_let_in = access.knows(*credential) and (name is None or access.allows(credential[0], name))
        return None if is_let_in else self.refuse(scope_of(recorded), "refused")

    def refuse(self, scope: str | None, error: str | None) -> Reply:
        if error is None:
            return super().refuse(scope, None)
        refused = error_reply(401, "UNAUTHORIZED", "unauthorized to access repository")
        refused.headers["WWW-Authenticate"] = 'Basic realm="harbor"'
        return refused


def _write_challenge(challenge: Challenge) -> str:
    """Ask for another scope beside: Harbor does for a mount, and nothing says that it asks for one."""
    scope = f"{challenge.scope} repository:library/other:pull" if challenge.scope else None
    return write_challenge(Challenge(realm=challenge.realm, service=challenge.service, scope=scope, error=None))
