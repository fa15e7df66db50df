"""Images as people write them: ``alpine``, ``alpine:3.20``, ``ghcr.io/owner/name@sha256:…``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mirror.errors import NameInvalid, quote
from mirror.oci.digest import Digest
from mirror.oci.reference import Reference, Repository, Tag

if TYPE_CHECKING:
    from collections.abc import Collection

_DOCKER_HUB: Final = "docker.io"
_HOST: Final = re.compile(r"(?=.*[.:])[a-z0-9]+(?:[.-][a-z0-9]+)*(?::[0-9]+)?")  # told from a name by its dot or port
LATEST: Final = Tag("latest")


@dataclass(frozen=True, slots=True)
class ImageName:
    """A repository and, where one was written, a tag or digest in it."""

    repository: Repository
    reference: Reference | None = None

    @property
    def reference_or_latest(self) -> Reference:
        """What is meant where an image has to be."""
        return self.reference or LATEST

    @property
    def or_latest(self) -> ImageName:
        """The image that is meant where one has to be."""
        return ImageName(self.repository, self.reference_or_latest)

    def __str__(self) -> str:
        """Write it out: ``docker.io/library/alpine:3.20``."""
        match self.reference:
            case None:
                return str(self.repository)
            case Digest():
                return f"{self.repository}@{self.reference}"
            case Tag():
                return f"{self.repository}:{self.reference}"


class ImageNames:
    """Reads names as the mirror's upstreams make them mean."""

    def __init__(self, upstreams: Collection[str], *, default: str) -> None:
        """Take the configured upstreams' names, and that of the one which is meant where none is written."""
        self._upstreams = upstreams
        self._default = default

    def parse(self, text: str) -> ImageName:
        """Read a name. An upstream that looks like a host need not be configured: its content may be here still.

        Raises:
            NameInvalid, ReferenceInvalid, DigestInvalid: the grammar does not allow it.
        """
        named, at, digest = text.partition("@")
        path, colon, tag = named.rpartition(":")
        if not colon or "/" in tag:
            path, colon, tag = named, "", ""
        repository = self._repository(path)
        reference = Tag(tag) if colon else None  # Docker too takes a tag beside a digest, and goes by the digest
        return ImageName(repository, Digest.parse(digest) if at else reference)

    def _repository(self, path: str) -> Repository:
        first, _, rest = path.partition("/")
        is_named = bool(rest) and (first in self._upstreams or _HOST.fullmatch(first) is not None)
        upstream, name = (first, rest) if is_named else (self._default, path)
        if not name:
            raise NameInvalid(f"{quote(path)} names no image; write one as alpine:3.20 or ghcr.io/owner/name:tag")
        if "/" not in name and (not is_named or upstream == _DOCKER_HUB):
            name = f"library/{name}"
        return Repository(upstream, name)
