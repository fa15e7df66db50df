"""Images that were brought and not fetched: what an archive has, linked to the repositories that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mirror.engine.closure import Incomplete, close_over
from mirror.engine.stored_images import StoredImage
from mirror.errors import ArchiveInvalid, StorageError
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT_BYTES, parse
from mirror.oci.reference import Tag
from mirror.policy import StoredTag
from mirror.ports import Held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mirror.oci.image_name import ImageName
    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Reference, Repository
    from mirror.ports import Clock, Index


class Brought(Protocol):
    """Blobs that have come with an archive and were verified."""

    def size_of(self, digest: Digest) -> int | None:
        """Return the size of one of them."""
        ...

    def read(self, digest: Digest) -> bytes:
        """Return one of them whole."""
        ...


class BroughtImages:
    """What is in an archive: nothing else counts, or it could claim what another repository has."""

    def __init__(self, brought: Brought) -> None:
        """Take the blobs."""
        self._brought = brought

    async def find(self, name: ImageName, descriptor: Descriptor) -> StoredImage:
        """Return all that the archive has of an image.

        Raises:
            ArchiveInvalid, ManifestInvalid: it is not all there, or what is there is no image.
        """
        root = self._find_manifest(descriptor)
        if root is None:
            raise ArchiveInvalid(f"the archive names {name} and does not have its manifest {descriptor.digest}")
        try:
            return StoredImage(name, await close_over(self, root))
        except Incomplete as error:
            raise ArchiveInvalid(f"the archive does not have all of {name}: {error}") from error

    async def find_manifests(self, descriptors: Sequence[Descriptor]) -> Sequence[Manifest | None]:
        """Return manifests of the archive.

        Raises:
            ArchiveInvalid: one is too long.
            ManifestInvalid: one is none.
        """
        return [self._find_manifest(descriptor) for descriptor in descriptors]

    def _find_manifest(self, descriptor: Descriptor) -> Manifest | None:
        size_bytes = self._brought.size_of(descriptor.digest)
        if size_bytes is None:
            return None
        if size_bytes > MANIFEST_LIMIT_BYTES:
            raise ArchiveInvalid(f"the manifest {descriptor.digest} is longer than {MANIFEST_LIMIT_BYTES} bytes")
        body = self._brought.read(descriptor.digest)
        return parse(body, content_type=descriptor.media_type, digest=descriptor.digest)

    async def has_blob(self, descriptor: Descriptor) -> bool:
        """Say whether a blob came with the archive."""
        return self._brought.size_of(descriptor.digest) is not None


class Admission:
    """Makes images that were brought known, so that they are served."""

    def __init__(self, index: Index, clock: Clock) -> None:
        """Join the parts; ``clock`` tells when a tag was last known to point where the archive says."""
        self._index = index
        self._clock = clock

    async def admit(self, image: StoredImage, brought: Brought) -> None:
        """Account for an image whose files have their names, link it, and point its tag at it, in this order.

        Raises:
            StorageError: the index did not take it.
        """
        repository, closure = image.name.repository, image.closure
        for digest in closure.blobs:
            await self._index.add_blob(digest, brought.size_of(digest) or 0)
        for manifest in reversed(closure.manifests.values()):  # what an index lists before the index
            await self._index.put_held(repository, [one async for one in self._links(repository, manifest)])
            await self._index.add_manifest(repository, manifest)
        reference = image.name.reference_or_latest
        root = closure.root.descriptor
        if isinstance(reference, Tag):
            await self._index.put_tag(repository, reference, StoredTag(descriptor=root, confirmed_at=self._clock()))
        await self._check(image, reference, root)

    async def _links(self, repository: Repository, manifest: Manifest) -> AsyncIterator[Held]:
        """Yield the links to a manifest and its blobs; what was got with a credential here stays private."""
        descriptors = [(manifest.descriptor, True), *((blob, False) for blob in manifest.blobs)]
        for descriptor, is_manifest in descriptors:
            before = await self._index.find_held(repository, descriptor.digest)
            is_private = before is not None and before.is_private
            yield Held(descriptor=descriptor, is_manifest=is_manifest, is_private=is_private)

    async def _check(self, image: StoredImage, reference: Reference, root: Descriptor) -> None:
        """Read back what was noted: the index fails no pull, so it says nothing when it cannot write."""
        held = await self._index.find_held(image.name.repository, root.digest)
        tag = await self._index.find_tag(image.name.repository, reference) if isinstance(reference, Tag) else None
        if held is None or (isinstance(reference, Tag) and (tag is None or tag.descriptor != root)):
            raise StorageError(f"{image.name} is stored, but the index did not take it; import it again")
