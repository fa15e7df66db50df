"""Which images are stored, and all there: what can be carried away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mirror.engine.closure import Closure, Incomplete, close_over
from mirror.errors import NotStored
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT_BYTES, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.oci.descriptor import Descriptor
    from mirror.oci.image_name import ImageName
    from mirror.oci.manifest import Manifest
    from mirror.oci.platforms import Platform
    from mirror.oci.reference import Repository, Tag
    from mirror.policy import StoredTag
    from mirror.ports import Held


class Files(Protocol):
    """The files of the store."""

    async def read(self, digest: Digest, *, limit_bytes: int) -> bytes | None:
        """Return a stored blob whole; None when it is not there, or longer than the limit."""
        ...

    async def size_of(self, digest: Digest) -> int | None:
        """Return the size of a stored file."""
        ...


class Facts(Protocol):
    """What is known about what is stored."""

    async def find_tag(self, repository: Repository, tag: Tag) -> StoredTag | None:
        """Return what the tag pointed at when it was last confirmed."""
        ...

    async def find_held(self, repository: Repository, digest: Digest) -> Held | None:
        """Return how the repository is known to hold the content, if it is."""
        ...


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that is stored."""

    name: ImageName
    closure: Closure


class StoredImages:
    """Finds images by what their repositories are known to hold."""

    def __init__(self, facts: Facts, files: Files) -> None:
        """Join the parts."""
        self._facts = facts
        self._files = files

    async def find(self, name: ImageName, platforms: Sequence[Platform] = ()) -> StoredImage:
        """Return all that is stored of an image.

        Raises:
            NotStored: it is not, or not wholly; the message says what is missing and what to do.
        """
        holdings = _Held(self._facts, self._files, name.repository)
        digest = await self._resolve(name)
        root = None if digest is None else await holdings.find(digest)
        if root is None:
            raise NotStored(f"{name} is not in this cache; fetch it with: {_warm(name, platforms)}")
        try:
            return StoredImage(name, await close_over(holdings, root, platforms))
        except Incomplete as error:
            message = f"{name} is not wholly in this cache: {error}; fetch the rest with: {_warm(name, platforms)}"
            raise NotStored(message) from error

    async def _resolve(self, name: ImageName) -> Digest | None:
        reference = name.reference_or_latest
        if isinstance(reference, Digest):
            return reference
        stored = await self._facts.find_tag(name.repository, reference)
        return None if stored is None else stored.descriptor.digest


class _Held:
    """What one repository is known to hold, and is stored."""

    def __init__(self, facts: Facts, files: Files, repository: Repository) -> None:
        self._facts = facts
        self._files = files
        self._repository = repository

    async def find(self, digest: Digest) -> Manifest | None:
        held = await self._facts.find_held(self._repository, digest)
        if held is None or not held.is_manifest:
            return None
        body = await self._files.read(digest, limit_bytes=MANIFEST_LIMIT_BYTES)
        return None if body is None else parse(body, content_type=held.descriptor.media_type, digest=digest)

    async def find_manifests(self, descriptors: Sequence[Descriptor]) -> Sequence[Manifest | None]:
        return [await self.find(descriptor.digest) for descriptor in descriptors]

    async def has_blob(self, descriptor: Descriptor) -> bool:
        held = await self._facts.find_held(self._repository, descriptor.digest)
        return held is not None and await self._files.size_of(descriptor.digest) is not None


def _warm(name: ImageName, platforms: Sequence[Platform]) -> str:
    wanted = "".join(f" --platform {platform}" for platform in platforms)
    return f"mirror warm{wanted} {name}"
