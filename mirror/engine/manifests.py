"""Manifests by digest: from memory, from the store where the repository is known to hold them, else fetched once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from mirror.errors import Denied, NotFound, StorageError
from mirror.http.cache_status import Outcome
from mirror.oci.descriptor import Descriptor
from mirror.oci.manifest import MANIFEST_LIMIT_BYTES, parse
from mirror.ports import Held

if TYPE_CHECKING:
    from mirror.concurrency.single_flight import SingleFlight
    from mirror.engine.access import Access
    from mirror.engine.refusals import Refusals
    from mirror.engine.usage import Usage
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Repository, Tag
    from mirror.ports import BlobStore, Index, Locks, Memory, Upstream

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedManifest:
    """A manifest's bytes, what the upstream says they are, and whether it gave them for a credential only."""

    descriptor: Descriptor
    body: bytes
    is_private: bool


class Manifests:
    """Finds, fetches and keeps manifests."""

    def __init__(
        self,
        *,
        store: BlobStore,
        index: Index,
        memory: Memory[LoadedManifest],
        locks: Locks,
        flights: SingleFlight[str, tuple[LoadedManifest, Outcome]],
        refusals: Refusals,
        access: Access,
        usage: Usage,
    ) -> None:
        """Join the parts; ``memory`` is bounded by bytes."""
        self._store = store
        self._index = index
        self._memory = memory
        self._locks = locks
        self._flights = flights
        self._refusals = refusals
        self._access = access
        self._usage = usage

    async def get(self, upstream: Upstream, repository: Repository, digest: Digest) -> tuple[LoadedManifest, Outcome]:
        """Return a manifest of this repository.

        Raises:
            NotFound, Denied, Remembered: the upstream's answer, now or a moment ago.
            UpstreamError: it is not stored and cannot be fetched.
        """
        loaded = self.peek(repository, digest)
        if loaded is not None:
            return loaded, Outcome.HIT
        key = _key(repository, digest)
        await self._refusals.check(key)
        (loaded, outcome), was_collapsed = await self._flights.run(
            key, lambda: self._load(upstream, repository, digest)
        )
        await self._memory.put(key, loaded, weight=len(loaded.body))
        self._usage.note_manifest(key, repository, digest)
        return loaded, Outcome.COALESCED if was_collapsed and outcome is Outcome.MISS else outcome

    def peek(self, repository: Repository, digest: Digest) -> LoadedManifest | None:
        """Return a manifest of this repository that is in memory and need not be confirmed again; note its use."""
        key = _key(repository, digest)
        loaded = self._memory.peek(key)
        if loaded is None or (loaded.is_private and not self._access.is_current(repository)):
            return None
        self._usage.note_manifest(key, repository, digest)
        return loaded

    def note_use(self, repository: Repository, digest: Digest) -> None:
        """Note that somebody asked about a manifest without getting it."""
        self._usage.note_manifest(_key(repository, digest), repository, digest)

    async def forget(self, repository: Repository, digest: Digest) -> None:
        """Drop a manifest from memory that is no longer stored."""
        await self._memory.drop(_key(repository, digest))

    async def forget_all(self) -> None:
        """Drop all manifests from memory."""
        await self._memory.clear()

    async def account(self, repository: Repository, digest: Digest) -> None:
        """Account for a manifest that is stored and not accounted for; drop from memory one that is not stored."""
        loaded = await self._find_held(repository, digest)
        if loaded is None:
            await self.forget(repository, digest)
            return
        manifest = parse(loaded.body, content_type=loaded.descriptor.media_type, digest=digest)
        await self._index.add_manifest(repository, manifest)

    async def fetch_by_tag(self, upstream: Upstream, repository: Repository, tag: Tag) -> Descriptor:
        """Fetch what a tag points at and keep it, from a registry whose HEAD does not say enough."""
        manifest = await upstream.fetch_manifest(repository, tag)
        await self._keep(upstream, repository, manifest)
        return manifest.descriptor

    async def _load(self, upstream: Upstream, repository: Repository, digest: Digest) -> tuple[LoadedManifest, Outcome]:
        loaded = await self._find_held(repository, digest)
        if loaded is not None:
            return await self._check_access(upstream, repository, loaded)
        async with self._locks.hold(f"manifest:{repository}@{digest}"):
            loaded = await self._find_held(repository, digest)  # another worker may have fetched it meanwhile
            if loaded is not None:
                return loaded, Outcome.COALESCED
            try:
                return await self._confirm_or_fetch(upstream, repository, digest)
            except (NotFound, Denied) as error:
                await self._refusals.remember(_key(repository, digest), error)
                raise

    async def _find_held(self, repository: Repository, digest: Digest) -> LoadedManifest | None:
        held = await self._index.find_held(repository, digest)
        if held is None or not held.is_manifest:
            return None
        body = await self._read(digest)
        return None if body is None else LoadedManifest(held.descriptor, body, held.is_private)

    async def _check_access(
        self, upstream: Upstream, repository: Repository, loaded: LoadedManifest
    ) -> tuple[LoadedManifest, Outcome]:
        """Ask again, after a while, about what was got with a credential; refuse it if the upstream would."""
        if not loaded.is_private:
            return loaded, Outcome.HIT
        digest = loaded.descriptor.digest

        async def confirm() -> None:
            if await upstream.resolve(repository, digest) is None:
                await upstream.fetch_manifest(repository, digest)

        try:
            is_confirmed = await self._access.ensure(upstream, repository, confirm)
        except (NotFound, Denied) as error:
            await self._index.drop_held(repository, digest)
            await self.forget(repository, digest)
            await self._refusals.remember(_key(repository, digest), error)
            raise
        if is_confirmed and not upstream.is_private(repository):  # it has become anybody's
            loaded = replace(loaded, is_private=False)
            await self._index.put_held(repository, [Held(descriptor=loaded.descriptor, is_manifest=True)])
        return loaded, Outcome.REVALIDATED if is_confirmed else Outcome.HIT

    async def _confirm_or_fetch(
        self, upstream: Upstream, repository: Repository, digest: Digest
    ) -> tuple[LoadedManifest, Outcome]:
        """Use what another repository has brought, once the upstream says that this one holds it too; else fetch."""
        body = await self._read(digest)
        confirmed = None if body is None else await upstream.resolve(repository, digest)
        if body is not None and confirmed is not None and confirmed.size_bytes == len(body):
            manifest = parse(body, content_type=confirmed.media_type, digest=digest)
            await self._link(upstream, repository, manifest)
            return self._loaded(upstream, repository, manifest), Outcome.REVALIDATED
        manifest = await upstream.fetch_manifest(repository, digest)
        await self._keep(upstream, repository, manifest)
        return self._loaded(upstream, repository, manifest), Outcome.MISS

    def _loaded(self, upstream: Upstream, repository: Repository, manifest: Manifest) -> LoadedManifest:
        return LoadedManifest(manifest.descriptor, manifest.body, upstream.is_private(repository))

    async def _read(self, digest: Digest) -> bytes | None:
        try:
            return await self._store.read(digest, limit_bytes=MANIFEST_LIMIT_BYTES)
        except StorageError as error:  # as good as not stored
            log.error("store.failed", digest=str(digest), error=str(error))
            return None

    async def _keep(self, upstream: Upstream, repository: Repository, manifest: Manifest) -> None:
        """Store and link; trouble with the store is not the client's."""
        try:
            await self._store.put(manifest.digest, manifest.body)
        except StorageError as error:
            log.error("store.failed", digest=str(manifest.digest), error=str(error))
            return
        await self._link(upstream, repository, manifest)

    async def _link(self, upstream: Upstream, repository: Repository, manifest: Manifest) -> None:
        """Remember that the repository holds the manifest and its blobs.

        Not what an index lists: registries take an index whose manifests they do not have, so that anybody could
        name another's private manifest there. Each is linked when the upstream gives it for this repository.
        """
        is_private = upstream.is_private(repository)
        held = [Held(descriptor=blob, is_manifest=False, is_private=is_private) for blob in manifest.blobs]
        held.append(Held(descriptor=manifest.descriptor, is_manifest=True, is_private=is_private))
        await self._index.put_held(repository, held)
        await self._access.note(upstream, repository)
        await self._index.add_manifest(repository, manifest)


def _key(repository: Repository, digest: Digest) -> str:
    return f"{repository}@{digest}"
