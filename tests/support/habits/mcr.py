"""Microsoft's public registry."""

from __future__ import annotations

from tests.support.faults import Redirect
from tests.support.habits.base import DATA_HOST, Habit, Sample
from tests.support.images import docker_image
from tests.support.registry import TestRegistry


class Mcr(Habit):
    """Asks nobody for anything; its blobs are on a data host."""

    name = "mcr.microsoft.com"
    public = Sample("dotnet/runtime", "8.0", docker_image(201, layer_bytes=20_000))

    def __init__(self) -> None:
        super().__init__()
        self.registry = TestRegistry(cdn_address=DATA_HOST)
        self.registry.redirects["blob"] = Redirect()
