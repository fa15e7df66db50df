"""Amazon's public gallery."""

from __future__ import annotations

from tests.support.access import read_basic
from tests.support.faults import Redirect
from tests.support.habits.base import DATA_HOST, Habit, Sample, hide_unknown, too_many
from tests.support.images import docker_image
from tests.support.record import Recorded
from tests.support.registry import TestRegistry
from tests.support.replies import Reply, error_reply
from tests.support.tokens import BearerGate, TokenService, TokenSettings


class PublicEcr(Habit):
    """Anonymous tokens; 401 for every HEAD of a blob, 400 for a token that has ended."""

    name = "public.ecr.aws"
    tokens: TokenService
    public = Sample("alias/app", "1", docker_image(161, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.tokens = TokenService(self.access, settings=TokenSettings(path="/token/", service=self.name))
        self.registry = _PublicRegistry(gate=_PublicGate(self.tokens), cdn_address=DATA_HOST)
        self.registry.redirects["blob"] = Redirect()
        hide_unknown(self.access, self.registry)

    def turn_away(self) -> None:
        """Exceed the one pull a second: 429 until `heal`."""
        self.registry.fail(too_many("Rate exceeded"))


class _PublicRegistry(TestRegistry):
    def _find(self, recorded: Recorded) -> Reply:
        if (recorded.kind, recorded.method) == ("blob", "HEAD"):
            return error_reply(401, "UNAUTHORIZED", "Not Authorized")
        return super()._find(recorded)


class _PublicGate(BearerGate):
    """Source: https://github.com/aws/containers-roadmap/issues/2835 - no challenge, and not 401."""

    def check(self, recorded: Recorded) -> Reply | None:
        if read_basic(recorded.headers) is not None:
            return self.refuse(None, "invalid_token")
        return super().check(recorded)

    def refuse(self, scope: str | None, error: str | None) -> Reply:
        if error == "invalid_token":
            return error_reply(400, "DENIED", "Your Authorization Token is invalid.")
        return super().refuse(scope, error)
