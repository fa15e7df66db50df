"""A plain registry of one's own, open or with an htpasswd file."""

from __future__ import annotations

from tests.support.access import Access, BasicGate
from tests.support.habits.base import Habit, Sample
from tests.support.images import docker_image, oci_image
from tests.support.registry import TestRegistry


class PlainRegistry(Habit):
    """Asks nobody for anything, and sends its blobs itself."""

    name = "plain.example"
    public = Sample("app", "1", oci_image(211, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.registry = TestRegistry()


class HtpasswdRegistry(Habit):
    """Wants name and password for everything, by Basic."""

    name = "htpasswd.example"
    private = Sample("app", "1", docker_image(221, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.access = Access(users={"ada": "test htpasswd: päss"})
        self.registry = TestRegistry(gate=BasicGate(self.access, challenge='Basic realm="Registry Realm"'))
