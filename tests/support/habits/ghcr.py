"""GitHub's registry."""

from __future__ import annotations

from tests.support.access import Access
from tests.support.faults import Redirect
from tests.support.habits.base import DATA_HOST, Habit, Sample, hide_unknown, too_many
from tests.support.images import oci_image
from tests.support.registry import TestRegistry
from tests.support.replies import Reply, error_reply
from tests.support.tokens import BearerGate, TokenService, TokenSettings


class Ghcr(Habit):
    """Refuses a stale credential where tokens are given, for public images too, and who has none what is private.

    ``robot`` has a personal access token without the scope for packages: it gets tokens, and 403 for manifests.
    """

    name = "ghcr.io"
    tokens: TokenService
    public = Sample("octo/public", "1.2.3", oci_image(111, layer_bytes=20_000))
    private = Sample("octo/private", "latest", oci_image(112, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        users = {"octocat": "ghp_test-classic-token", "robot": "ghp_test-token-without-scope"}
        self.access = Access(users=users, private={self.private.repository: {"octocat"}})
        settings = TokenSettings(
            service="ghcr.io",
            fields={"token": "{}"},
            tells_expires_in=False,
            bad_credential_status=403,
            denied_anonymous_status=401,
        )
        self.tokens = TokenService(self.access, settings=settings)
        self.registry = TestRegistry(gate=_Gate(self.tokens), cdn_address=DATA_HOST)
        self.registry.redirects["blob"] = Redirect()
        hide_unknown(self.access, self.registry)

    def turn_away(self) -> None:
        """Exceed the limit: until `heal`, 429 that says when to come back in its text only."""
        self.registry.fail(too_many("retry-after: 985.86µs, allowed: 44000/minute"))


class _Gate(BearerGate):
    def refuse(self, scope: str | None, error: str | None) -> Reply:
        if error == "insufficient_scope":
            return error_reply(403, "DENIED", "permission_denied: read_package")
        return super().refuse(scope, error)
