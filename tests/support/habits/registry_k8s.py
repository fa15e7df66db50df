"""registry.k8s.io."""

from __future__ import annotations

from multidict import CIMultiDict

from tests.support.faults import Redirect
from tests.support.habits.base import DATA_HOST, OTHER_HOST, Habit, Sample
from tests.support.images import oci_image
from tests.support.record import Recorded
from tests.support.registry import TestRegistry
from tests.support.replies import Reply, error_reply
from tests.support.tokens import BearerGate, TokenService, TokenSettings

BEHIND = "k8s-artifacts-prod/images/"
"""Put before a repository's name by the redirect: the host behind knows it by this one, and gives tokens for it."""


class RegistryK8s(Habit):
    """A front that has nothing: blobs are in a bucket, all else is on another host with its own challenge and tokens.

    `registry` is the front; `behind` is the other host, and `tokens` are its tokens.
    """

    name = "registry.k8s.io"
    tokens: TokenService
    public = Sample("pause", "3.10", oci_image(151, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        settings = TokenSettings(path="/v2/token", service="europe-west1-docker.pkg.dev", fields={"token": "{}"})
        self.tokens = TokenService(self.access, settings=settings, address=OTHER_HOST)
        self.behind = TestRegistry(gate=BearerGate(self.tokens), address=OTHER_HOST)
        self.others = [self.behind]
        self.registry = _Front(self.behind)

    def _fill(self) -> None:
        super()._fill()
        for repository, tag, image in self.samples:
            self.behind.add(BEHIND + repository, tag, image)


class _Front(TestRegistry):
    def __init__(self, behind: TestRegistry) -> None:
        super().__init__(cdn_address=DATA_HOST)
        self._behind = behind
        self.redirects["blob"] = Redirect()

    def _find(self, recorded: Recorded) -> Reply:
        if recorded.kind == "catalog":
            return error_reply(404, "NAME_UNKNOWN", "no such endpoint")
        if recorded.kind in {"manifest", "tags", "referrers"}:
            location = self._behind.base_url + recorded.path.replace("/v2/", f"/v2/{BEHIND}", 1)
            return Reply(status=307, headers=CIMultiDict({"Location": location}))
        return super()._find(recorded)
