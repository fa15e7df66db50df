"""Images fetched ahead of need, by the same way on which a client's pull goes: shared, limited and counted like one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mirror.engine.closure import Closure, close_over
from mirror.errors import MirrorError, NameUnknown, StorageError, quote
from mirror.http.cache_status import Outcome
from mirror.oci.manifest import parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mirror.engine.pull import PullThrough
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.image_name import ImageName
    from mirror.oci.manifest import Manifest
    from mirror.oci.patterns import Rules
    from mirror.oci.platforms import Platform
    from mirror.oci.reference import Reference, Repository
    from mirror.ports import Upstream

_IMAGES_AT_ONCE: Final = 4
_PARTS_AT_ONCE: Final = 8  # of all images: the rest of an upstream's connections is for clients


class Watcher(Protocol):
    """Is told how it goes; neither method may wait."""

    def blob_moved(self, image: ImageName, blob: Descriptor, done_bytes: int) -> None:
        """So much of a blob is there; all of it, where it was there before."""
        ...

    def image_ended(self, warmed: Warmed) -> None:
        """An image is in the cache, or will not be."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """What became of an image; ``error`` where not all of it is in the cache now.

    ``is_stale``: its upstream could not say whether the tag still points there.
    """

    image: ImageName
    closure: Closure | None = None
    fetched_bytes: int = 0
    is_stale: bool = False
    error: MirrorError | None = None


class Warming:
    """Fetches what an image needs."""

    def __init__(self, pull: PullThrough, upstreams: Mapping[str, Upstream], rules: Mapping[str, Rules]) -> None:
        """Take the cache, and by upstream's name its client and which of its repositories are served."""
        self._pull = pull
        self._upstreams = upstreams
        self._rules = rules

    async def warm(
        self, images: Sequence[ImageName], platforms: Sequence[Platform], watcher: Watcher
    ) -> Sequence[Warmed]:
        """Fetch images, of the given platforms or of every one; one that fails stops no other."""
        images_at_once = asyncio.Semaphore(_IMAGES_AT_ONCE)
        parts_at_once = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def one(image: ImageName) -> Warmed:
            async with images_at_once:
                warmed = await self._warm(image, platforms, parts_at_once, watcher)
            watcher.image_ended(warmed)
            return warmed

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(image)) for image in images]
        return [task.result() for task in running]

    async def _warm(
        self, image: ImageName, platforms: Sequence[Platform], parts_at_once: asyncio.Semaphore, watcher: Watcher
    ) -> Warmed:
        try:
            upstream = self._find_upstream(image.repository)
            fetching = _Fetching(self._pull, upstream, image.repository, parts_at_once)
            root, outcome = await fetching.fetch(image.reference_or_latest)
            closure = await close_over(fetching, root, platforms)
        except MirrorError as error:
            return Warmed(image=image, error=error)
        fetch = _BlobFetch(self._pull, upstream, image, watcher, parts_at_once)
        async with asyncio.TaskGroup() as group:
            for blob in closure.blobs.values():
                group.create_task(fetch.run(blob))
        return Warmed(
            image=image,
            closure=closure,
            fetched_bytes=fetch.fetched_bytes,
            is_stale=outcome is Outcome.STALE,
            error=fetch.error,
        )

    def _find_upstream(self, repository: Repository) -> Upstream:
        upstream = self._upstreams.get(repository.upstream)
        if upstream is None:
            raise NameUnknown(f"no upstream {quote(repository.upstream)} is configured in this mirror")
        self._rules[upstream.name].check(repository)
        return upstream


class _Fetching:
    """Holdings that are fetched when they are asked about; blobs are left for later."""

    def __init__(
        self, pull: PullThrough, upstream: Upstream, repository: Repository, at_once: asyncio.Semaphore
    ) -> None:
        self._pull = pull
        self._upstream = upstream
        self._repository = repository
        self._at_once = at_once

    async def fetch(self, reference: Reference) -> tuple[Manifest, Outcome]:
        async with self._at_once:
            answer = await self._pull.manifest(self._upstream, self._repository, reference, with_body=True, anew=True)
        descriptor = answer.descriptor
        body = answer.body or b""
        return parse(body, content_type=descriptor.media_type, digest=descriptor.digest), answer.outcome

    async def find_manifests(self, descriptors: Sequence[Descriptor]) -> Sequence[Manifest | None]:
        """Fetch all.

        Raises:
            MirrorError: one could not be; the others are given up.
        """
        try:
            async with asyncio.TaskGroup() as group:
                fetches = [group.create_task(self.fetch(descriptor.digest)) for descriptor in descriptors]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [manifest for manifest, _ in (fetch.result() for fetch in fetches)]

    async def has_blob(self, descriptor: Descriptor) -> bool:  # noqa: ARG002 - each will be
        return True


class _BlobFetch:
    """The blobs of one image, on their way."""

    def __init__(
        self,
        pull: PullThrough,
        upstream: Upstream,
        image: ImageName,
        watcher: Watcher,
        at_once: asyncio.Semaphore,
    ) -> None:
        self._blobs = pull.blobs
        self._upstream = upstream
        self._image = image
        self._watcher = watcher
        self._at_once = at_once
        self.fetched_bytes = 0
        self.error: MirrorError | None = None

    async def run(self, blob: Descriptor) -> None:
        """Fetch one; an error is kept, the first of them for good."""
        async with self._at_once:
            try:
                await self._fetch(blob)
                if not await self._blobs.settle(blob.digest):
                    raise StorageError(f"{blob.digest} could not be stored; is the disk full, or cache.max_size small?")
            except MirrorError as error:
                self.error = self.error or error

    async def _fetch(self, blob: Descriptor) -> None:
        digest = blob.digest
        answer = await self._blobs.get(self._upstream, self._image.repository, digest, range_header=None)
        try:
            body, offset = answer.body, 0
            while body is not None and (end := await body.readable_to(offset)) > offset:
                offset = end
                self._watcher.blob_moved(self._image, blob, offset)
        finally:
            await answer.release()
        if answer.outcome in {Outcome.MISS, Outcome.COALESCED}:
            self.fetched_bytes += offset
