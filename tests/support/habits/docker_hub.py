"""Docker Hub."""

from __future__ import annotations

from tests.support.access import Access
from tests.support.faults import Fault, Redirect, Status
from tests.support.habits.base import DATA_HOST, Habit, Sample, hide_unknown
from tests.support.images import docker_image, oci_image
from tests.support.registry import RateLimit, TestRegistry
from tests.support.tokens import BearerGate, TokenService, TokenSettings

_ABUSE = Status(status=429, body=b"Too Many Requests\n", headers={"Content-Type": "text/plain"})


class DockerHub(Habit):
    """A token service of its own, blobs on a CDN, manifest GETs that are counted, 401 for what is not there.

    ``registry.limit.remaining = 0`` is the pull limit: 429 for a manifest's GET, with no word of when to come back.
    """

    name = "docker.io"
    tokens: TokenService
    public = Sample("library/alpine", "3.20", docker_image(101, layer_bytes=20_000))
    private = Sample("ada/private", "1", oci_image(102, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.access = Access(users={"ada": "dckr_pat_test-hub-password"}, private={self.private.repository: {"ada"}})
        self.tokens = TokenService(self.access, settings=TokenSettings(service="registry.docker.io"))
        self.registry = TestRegistry(gate=BearerGate(self.tokens), cdn_address=DATA_HOST)
        self.registry.redirects["blob"] = Redirect()
        self.registry.limit = RateLimit(limit=100, remaining=100, source="192.0.2.1")
        hide_unknown(self.access, self.registry)

    def turn_away(self) -> None:
        """Hit the abuse limit: until `heal`, a bare 429 to whatever this address asks."""
        self.registry.fail(Fault(action=_ABUSE, path="/v2/"))
        self.tokens.fail(Fault(action=_ABUSE))
