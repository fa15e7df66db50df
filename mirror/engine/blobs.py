"""Blobs: from the store, behind a download, or passed through when only a far part of a missing one is wanted."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from mirror.engine.answers import BlobAnswer
from mirror.engine.source import Source
from mirror.errors import BlobUnknown, Denied, NotFound, StorageError, UpstreamError
from mirror.http.cache_status import Outcome
from mirror.http.ranges import parse_range
from mirror.oci.descriptor import Descriptor
from mirror.oci.media_types import OCTET_STREAM
from mirror.ports import Held

if TYPE_CHECKING:
    from mirror.concurrency.single_flight import SingleFlight
    from mirror.engine.access import Access
    from mirror.engine.doubts import Doubts
    from mirror.engine.downloads import Downloads
    from mirror.engine.refusals import Refusals
    from mirror.engine.small_blobs import SmallBlobs
    from mirror.engine.usage import Usage
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.ports import Body, Index, Memory, Upstream

log = structlog.get_logger(__name__)

Kept = tuple[int, bool]
"""What memory has of a blob that a repository holds: its size, and whether it is private.

A plain tuple of plain values, since the garbage collector does not look at these: at 50,000 objects it would look for
tens of milliseconds, in which nobody is answered.
"""

_FAR_AHEAD_BYTES = 16 * 1024 * 1024  # a second or so of a slow line: nearer, waiting is cheaper than asking


class Blobs:
    """Serves blobs through the repositories that are known to hold them."""

    def __init__(  # noqa: PLR0913 - what it joins
        self,
        *,
        stored: Doubts,
        index: Index,
        memory: Memory[Kept],
        small: SmallBlobs,
        downloads: Downloads,
        flights: SingleFlight[str, Held],
        refusals: Refusals,
        access: Access,
        usage: Usage,
    ) -> None:
        """Join the parts."""
        self._stored = stored
        self._index = index
        self._memory = memory
        self._small = small
        self._downloads = downloads
        self._flights = flights
        self._refusals = refusals
        self._access = access
        self._usage = usage

    def peek(self, repository: Repository, digest: Digest) -> bytes | None:
        """Return, where ``get`` would be a hit and need not wait, a small blob's bytes; note its use."""
        kept = self._memory.peek(_key(repository, digest))
        if kept is None:
            return None
        _, is_private = kept
        if is_private and not self._access.is_current(repository):
            return None
        content = self._small.peek(digest)
        if content is not None:
            self._usage.note_blob(digest)
        return content

    async def get(
        self, upstream: Upstream, repository: Repository, digest: Digest, *, range_header: str | None
    ) -> BlobAnswer:
        """Open a blob, or the part of it that is asked for, for sending; the caller releases the answer.

        Raises:
            NotFound, Denied, Remembered: the upstream's answer, now or a moment ago.
            RangeUnsatisfiable: the part starts past the end.
            UpstreamError: it is not stored and cannot be fetched.
        """
        await self._refusals.check(_key(repository, digest))
        content = None if range_header else self.peek(repository, digest)
        if content is not None:
            return BlobAnswer(digest=digest, outcome=Outcome.HIT, size_bytes=len(content), content=content)
        held = await self._find_held(upstream, repository, digest)
        stored = await self._find_stored(digest)
        async with AsyncExitStack() as resources:
            if stored is not None:
                resources.callback(stored.close)
                outcome = Outcome.HIT
                if held is None:
                    held = await self._confirm(upstream, repository, digest)
                    outcome = Outcome.REVALIDATED
                if await self._is_whole(digest, stored, held):
                    self._usage.note_blob(digest)
                    content = None if range_header else await self._small.load(digest, stored)
                    if content is not None:
                        return BlobAnswer(digest=digest, outcome=outcome, size_bytes=len(content), content=content)
                    return self._answer(digest, outcome, stored, range_header, resources)
            body, outcome = await self._follow(upstream, repository, digest, held)
            resources.callback(body.close)
            if held is None:  # the first bytes do not wait until the index has it
                size_bytes = body.size_bytes
                _ = self._flights.start(
                    _key(repository, digest), lambda: self._link(upstream, repository, digest, size_bytes)
                )
            ahead = await self._open_ahead(upstream, repository, digest, body, range_header)
            return ahead or self._answer(digest, outcome, body, range_header, resources)

    async def head(self, upstream: Upstream, repository: Repository, digest: Digest) -> BlobAnswer:
        """Say how long a blob is, without fetching it.

        Raises:
            NotFound, Denied, Remembered, UpstreamError: as ``get``.
        """
        await self._refusals.check(_key(repository, digest))
        held = await self._find_held(upstream, repository, digest)
        stored = await self._find_stored(digest)
        if stored is not None:
            stored.close()
            outcome = Outcome.HIT
            if held is None:
                held = await self._confirm(upstream, repository, digest)
                outcome = Outcome.REVALIDATED
            if await self._is_whole(digest, stored, held):
                return BlobAnswer(digest=digest, outcome=outcome, size_bytes=stored.size_bytes)
        size_bytes = await self._ask_size(upstream, repository, digest, held)
        return BlobAnswer(digest=digest, outcome=Outcome.BYPASS, size_bytes=size_bytes or None)

    async def _ask_size(
        self, upstream: Upstream, repository: Repository, digest: Digest, held: Held | None
    ) -> int | None:
        if held is None:
            return (await self._confirm(upstream, repository, digest)).descriptor.size_bytes
        try:
            return await upstream.find_blob_size(repository, digest) or held.descriptor.size_bytes
        except UpstreamError:
            return held.descriptor.size_bytes  # a manifest of this repository names it, and its size

    async def settle(self, digest: Digest) -> bool:
        """Wait until a download of a blob, if one runs, has ended; return whether the blob is stored."""
        await self._downloads.settle(digest)
        stored = await self._find_stored(digest)
        if stored is not None:
            stored.close()
        return stored is not None

    async def forget(self, repository: Repository, digest: Digest) -> None:
        """Drop from memory that the repository holds a blob."""
        await self._memory.drop(_key(repository, digest))

    async def forget_all(self) -> None:
        """Drop from memory what any repository holds."""
        await self._memory.clear()

    # ---- where it comes from

    async def _find_stored(self, digest: Digest) -> Body | None:
        """Open what is stored, or was downloaded whole just now and is on its way to its name."""
        download = self._downloads.find(digest)
        if download is not None:
            return await download.follow() if download.is_complete else None
        try:
            return await self._stored.find(digest)
        except StorageError as error:  # as good as not stored
            log.error("store.failed", digest=str(digest), error=str(error))
            return None

    async def _is_whole(self, digest: Digest, stored: Body, held: Held) -> bool:
        """Compare a stored blob with the size that it should have; one that is damaged is removed.

        A manifest may be wrong about a size, so what was counted when the blob was stored has the last word.
        """
        expected_bytes = held.descriptor.size_bytes
        if not expected_bytes or stored.size_bytes == expected_bytes or self._downloads.find(digest) is not None:
            return True
        if stored.size_bytes == await self._index.stored_size(digest):
            return True
        await self._stored.condemn(digest)
        return False

    async def _follow(
        self, upstream: Upstream, repository: Repository, digest: Digest, held: Held | None
    ) -> tuple[Body, Outcome]:
        """Join the download of a digest, or start it; what somebody else fetches is shared after a check."""
        download = self._downloads.find(digest)
        if download is not None and held is None and download.source.repository != repository:
            await self._confirm(upstream, repository, digest)
            download = self._downloads.find(digest)
        outcome = Outcome.COALESCED
        if download is None and upstream.is_offline:  # before what an earlier process left of it is read
            message = f"this mirror is offline, and {digest} of {repository} is not stored"
            raise BlobUnknown(message, was_asked=False)
        if download is None:
            outcome = Outcome.MISS

            async def confirm() -> None:
                if held is None:
                    await self._confirm(upstream, repository, digest)

            source = Source(repository=repository, upstream=upstream, confirm=confirm)
            if held is not None and held.descriptor.size_bytes:
                source = replace(source, most_bytes=held.descriptor.size_bytes)
            download = self._downloads.start(digest, source)
        try:
            body = await download.follow()
        except (NotFound, Denied) as error:
            await self._refusals.remember(_key(download.source.repository, digest), error)
            raise
        if download.is_unstored and outcome is Outcome.MISS:
            outcome = Outcome.BYPASS
        return body, outcome

    async def _open_ahead(
        self, upstream: Upstream, repository: Repository, digest: Digest, body: Body, range_header: str | None
    ) -> BlobAnswer | None:
        """Ask the upstream for a part that the download reaches only much later; None where waiting is as well."""
        if body.size_bytes is None or range_header is None:
            return None
        part = parse_range(range_header, body.size_bytes)
        if part is None or part.first <= body.readable_now() + _FAR_AHEAD_BYTES:
            return None
        resources = AsyncExitStack()
        try:
            transfer = upstream.open_blob(repository, digest, first=part.first, last=part.last)
            stream = await resources.enter_async_context(transfer)
        except (UpstreamError, NotFound, Denied):
            return None  # the download will get there
        if stream.offset != part.first:  # no ranges here
            await resources.aclose()
            return None
        body.close()
        return BlobAnswer(
            digest=digest,
            outcome=Outcome.BYPASS,
            size_bytes=body.size_bytes,
            part=part,
            stream=stream,
            resources=resources,
        )

    def _answer(
        self, digest: Digest, outcome: Outcome, body: Body, range_header: str | None, resources: AsyncExitStack
    ) -> BlobAnswer:
        size_bytes = body.size_bytes
        part = None
        if size_bytes is not None:
            part = parse_range(range_header, size_bytes)
        return BlobAnswer(
            digest=digest,
            outcome=outcome,
            size_bytes=size_bytes,
            part=part,
            body=body,
            resources=resources.pop_all(),
        )

    # ---- which repository holds it

    async def _find_held(self, upstream: Upstream, repository: Repository, digest: Digest) -> Held | None:
        key = _key(repository, digest)
        kept = await self._memory.find(key)
        held = await self._index.find_held(repository, digest) if kept is None else _held(digest, *kept)
        if kept is None and held is not None:
            await self._memory.put(key, _kept(held))
        if held is not None and held.is_private and not self._access.is_current(repository):
            await self._check_access(upstream, repository, digest)
        return held

    async def _check_access(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        """Ask again, after a while, about what was got with a credential; refuse it if the upstream would."""
        try:
            await self._access.ensure(upstream, repository, lambda: self._confirm(upstream, repository, digest))
        except (NotFound, Denied):
            await self._index.drop_held(repository, digest)
            await self._memory.drop(_key(repository, digest))
            raise

    async def _confirm(self, upstream: Upstream, repository: Repository, digest: Digest) -> Held:
        """Ask the upstream whether the repository holds the blob, and remember it."""
        key = _key(repository, digest)

        async def ask() -> Held:
            try:
                size_bytes = await upstream.find_blob_size(repository, digest)
                return await self._link(upstream, repository, digest, size_bytes)
            except (NotFound, Denied) as error:
                await self._refusals.remember(key, error)
                raise

        held, _ = await self._flights.run(key, ask)
        return held

    async def _link(self, upstream: Upstream, repository: Repository, digest: Digest, size_bytes: int | None) -> Held:
        held = _held(digest, size_bytes or 0, upstream.is_private(repository))
        await self._memory.put(_key(repository, digest), _kept(held))
        put = self._index.put_held(repository, [held])
        await asyncio.gather(self._access.note(upstream, repository), put, self._index.add_holder(repository, digest))
        return held


def _key(repository: Repository, digest: Digest) -> str:
    return f"blob:{repository}@{digest}"


def _kept(held: Held) -> Kept:
    return held.descriptor.size_bytes, held.is_private


def _held(digest: Digest, size_bytes: int, is_private: bool) -> Held:  # noqa: FBT001 - as `Kept` has it
    descriptor = Descriptor(media_type=OCTET_STREAM, digest=digest, size_bytes=size_bytes)
    return Held(descriptor=descriptor, is_manifest=False, is_private=is_private)
