"""quay.io and Quay."""

from __future__ import annotations

from tests.support.access import Access
from tests.support.faults import Redirect
from tests.support.habits.base import DATA_HOST, Habit, Sample
from tests.support.images import docker_image, oci_image
from tests.support.registry import TestRegistry
from tests.support.tokens import BearerGate, TokenService, TokenSettings

_TOKENS_LIVE_SECONDS = 3600


class Quay(Habit):
    """Gives nothing to who asks for nothing, says nothing of lifetimes, and has robots with a plus in their names."""

    name = "quay.io"
    tokens: TokenService
    public = Sample("org/public", "v1", docker_image(131, layer_bytes=20_000))
    private = Sample("org/private", "v1", oci_image(132, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.access = Access(
            users={"org+robot": "TESTQUAYROBOTTOKEN"}, private={self.private.repository: {"org+robot"}}
        )
        settings = TokenSettings(
            path="/v2/auth",
            service="quay.io",
            fields={"token": "{}"},
            expires_in_seconds=_TOKENS_LIVE_SECONDS,
            tells_expires_in=False,
            bad_credential_status=401,
            scopeless_anonymous_status=401,
            malformed_scope_status=400,
            post_status=405,
        )
        self.tokens = TokenService(self.access, settings=settings)
        self.registry = TestRegistry(gate=BearerGate(self.tokens), cdn_address=DATA_HOST)
        self.registry.redirects["blob"] = Redirect(status=302)
