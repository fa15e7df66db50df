"""What the protocol tests are run against: a base URL, what is behind it, and where it differs with good reason."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.support.debian_registry import DebianRegistry
from tests.support.images import (
    Blob,
    Image,
    Index,
    Pullable,
    artifact,
    blob,
    docker_image,
    docker_list,
    oci_image,
    oci_index,
)
from tests.support.mirrors import running_mirror, settings
from tests.support.registry import TestRegistry


class Deviation(StrEnum):
    """Where a target does something else than the others, and may."""

    TAGS_UNPAGED = "lists all tags in no order, whatever `n` and `last` say (distribution before 3.0)"
    NO_REFERRERS = "has no referrers API (distribution)"
    STRICT_RANGES = "refuses a Range that it cannot read with 416 (Go's ServeContent)"
    MULTIPART = "answers several ranges by multipart/byteranges (Go's ServeContent)"
    LONG_416 = "announces the whole blob's length on 416 and closes after the message (distribution 2.8)"
    TEXT_ERRORS = "answers 404 in plain text when no route matches (distribution)"
    LOOSE_DIGESTS = "takes a malformed digest of a manifest for a tag, and fails (distribution 2.8)"
    WRITABLE = "accepts pushes"


DEBIAN_DEVIATIONS = frozenset(Deviation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One repository with `images` and `indexes` by tag, and another with a blob that the first does not hold.

    Every other blob is a layer or config of these. `artifact` refers to the image tagged ``docker``. `sha512` is a
    blob known by that algorithm, a layer of the image tagged ``sha512``, where the target can have one.
    """

    base_url: str
    repository: str
    images: Mapping[str, Image]
    indexes: Mapping[str, Index]
    artifact: Image
    foreign: Blob
    sha512: Image | None = None
    deviations: frozenset[Deviation] = frozenset()

    @property
    def manifests(self) -> Mapping[str, Pullable]:
        """Everything that has a tag."""
        return {**self.images, **self.indexes}

    @property
    def layer(self) -> Blob:
        """A blob of more than a few kilobytes."""
        return self.images["docker"].layers[0]

    def url(self, path: str) -> str:
        """Return the URL of a path in the repository."""
        return f"{self.base_url}/v2/{self.repository}/{path}"


Target = Callable[[], AbstractAsyncContextManager[Served]]
REPOSITORY = "team/project/app"
OTHER_REPOSITORY = "team/other"
IMAGES: Mapping[str, Image] = {"docker": docker_image(1), "oci": oci_image(2)}
INDEXES: Mapping[str, Index] = {"docker-list": docker_list(3), "oci-index": oci_index(4)}
PULLABLES: Mapping[str, Pullable] = {**IMAGES, **INDEXES}
ARTIFACT = artifact(IMAGES["docker"])
SHA512 = oci_image(5).known_by("sha512")
FOREIGN = blob(2000, 6)


def served_by(
    base_url: str,
    *,
    repository: str = REPOSITORY,
    sha512: Image | None = None,
    deviations: frozenset[Deviation] = frozenset(),
) -> Served:
    """Describe a target that has been filled by `fill`, or that stands before one."""
    return Served(
        base_url=base_url,
        repository=repository,
        images=IMAGES,
        indexes=INDEXES,
        artifact=ARTIFACT,
        foreign=FOREIGN,
        sha512=sha512,
        deviations=deviations,
    )


def fill(registry: TestRegistry) -> None:
    """Put into a registry what the protocol tests look for."""
    for tag, pullable in PULLABLES.items():
        registry.add(REPOSITORY, tag, pullable)
    registry.add(REPOSITORY, "sha512", SHA512)
    registry.add(REPOSITORY, None, ARTIFACT)
    registry.add_blob(OTHER_REPOSITORY, FOREIGN)


@asynccontextmanager
async def by_test_registry() -> AsyncIterator[Served]:
    """Serve by our own registry."""
    async with TestRegistry() as registry:
        fill(registry)
        yield served_by(registry.base_url, sha512=SHA512)


@asynccontextmanager
async def by_debian_registry() -> AsyncIterator[Served]:
    """Serve by Debian's docker-registry."""
    async with DebianRegistry() as registry:
        for tag, pullable in PULLABLES.items():
            registry.push(REPOSITORY, tag, pullable)
        registry.push_blob(OTHER_REPOSITORY, FOREIGN)
        yield served_by(registry.base_url, deviations=DEBIAN_DEVIATIONS)


@asynccontextmanager
async def by_mirror() -> AsyncIterator[Served]:
    """Serve by the mirror, before our own registry."""
    with tempfile.TemporaryDirectory(prefix="mirror-") as folder:
        async with TestRegistry() as registry:
            fill(registry)
            async with running_mirror(Path(folder), settings({"docker.io": registry.base_url})) as mirror:
                yield served_by(mirror.base_url, sha512=SHA512)
