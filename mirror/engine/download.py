"""One blob in progress: one writer, many followers behind it, across requests and across worker processes.

┌─ claim: WRITER ──► filling ──digest matches──► complete ──► commit
│                       │  └─ it does not ──► discarded, failed
start                     ▼
│                    failed (what is written stays for the next writer)
└─ claim: BUSY ────► watching what another worker writes ──► complete, failed, or the claim: it died, go on
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from mirror.engine.appending import Appender
from mirror.engine.filling import Filling
from mirror.engine.followers import DownloadBody, Followers
from mirror.engine.progress import Progress
from mirror.errors import DigestMismatch, MirrorError, StorageError, UpstreamFailed, UpstreamInvalid
from mirror.ports import Claim

if TYPE_CHECKING:
    from mirror.engine.source import Source
    from mirror.oci.digest import Digest
    from mirror.ports import BlobStore, Body, DownloadObserver, PartialBlob, Room

log = structlog.get_logger(__name__)

_WATCH_SECONDS = 0.004


class Download:
    """The state that the writer and the followers of one blob share in this process."""

    def __init__(
        self, digest: Digest, source: Source, store: BlobStore, room: Room, observer: DownloadObserver
    ) -> None:
        """Prepare; nothing happens before ``run``."""
        self.digest = digest
        self.source = source
        self.followers = Followers()
        self._progress = Progress()
        self._appender = Appender(digest, self.followers, room, observer)
        self._store = store
        self._room = room
        self._observer = observer
        self._file: PartialBlob | Body | None = None
        self._partial: PartialBlob | None = None
        self._users = 0

    @property
    def size_bytes(self) -> int | None:
        """The whole size; None where the upstream does not tell."""
        return self._progress.size_bytes

    @property
    def is_complete(self) -> bool:
        """Whether all of it is there and verified, though perhaps not yet durable under its name."""
        return self._progress.is_complete

    @property
    def has_failed(self) -> bool:
        """Whether it ended without the whole blob."""
        return self._progress.error is not None

    @property
    def is_unstored(self) -> bool:
        """Whether it goes through memory for want of room."""
        return self._appender.is_unstored

    @property
    def can_be_joined(self) -> bool:
        """Whether all of it is still there for who comes now."""
        return self._appender.has_everything

    # ---- followers

    async def follow(self) -> DownloadBody:
        """Return a body that reads behind the writer, once the upstream has begun to answer.

        Raises:
            MirrorError: it refused, or could not be reached: nothing was sent to anybody yet.
        """
        self._users += 1  # before the wait: a small blob is complete, and its file closed, before this goes on
        body = DownloadBody(self)
        try:
            await self._progress.opened()
        except BaseException:
            body.close()
            raise
        return body

    def fileno_at(self, offset: int) -> int:
        """Return the descriptor of the file that has an offset; those who follow keep it open."""
        assert self._file is not None, "read after it was left"  # noqa: S101 - a mistake of ours
        return self._partial.fileno_at(offset) if self.is_unstored and self._partial else self._file.fileno()

    def end_at(self, offset: int, end: int) -> int:
        """Return the end of what can be read at an offset from one file."""
        spilled_at = self._appender.spilled_at
        return min(end, spilled_at) if spilled_at is not None and offset < spilled_at else end

    def readable_now(self) -> int:
        """Return the end of what followers may read."""
        return self._progress.readable_now()

    async def readable_to(self, offset: int) -> int:
        """Wait until there is something at ``offset``; return the end of what can be read, ``offset`` at the end."""
        return await self._progress.readable_to(offset)

    def leave(self) -> None:
        """Give up one use of the file; the last one closes it."""
        self._users -= 1
        if self._users == 0 and self._file is not None:
            self._file.close()
            self._file = None

    # ---- the writer, or who watches it

    async def run(self) -> None:
        """Fill the file, or follow the worker that does, until it is complete or has failed.

        Raises:
            MirrorError: what every follower got too.
        """
        self._users += 1
        self._observer.fill_started()
        try:
            await self._take()
        except MirrorError as error:
            self._progress.fail(error)
            raise
        except BaseException:
            self._progress.fail(UpstreamFailed("the mirror is shutting down", upstream=self.source.upstream.name))
            raise
        finally:
            self._observer.fill_ended()
            self.leave()

    async def _take(self) -> None:
        """Become the writer, or watch the one who is and take over if it dies."""
        partial = await self._open_partial()
        is_confirmed = False
        while True:
            claim = partial.claim()
            if claim is Claim.WRITER:
                if partial.spilled_at is not None and not self.is_unstored:
                    self._appender.pass_on(partial, "the worker that wrote it found no room")
                if await self._fill_or_start_over(partial):
                    return
                partial = await self._open_partial()
                continue
            if not is_confirmed:
                await self.source.confirm()
                is_confirmed = True
            if claim is Claim.BUSY:
                await self._watch(partial)
            elif claim is Claim.STORED:
                if self.is_complete or await self._adopt(partial):
                    return
                partial = await self._open_partial()
            elif self.readable_now():
                message = f"the download of {self.digest} was discarded by the worker that wrote it"
                raise DigestMismatch(message, upstream=self.source.upstream.name)
            else:
                partial = await self._open_partial()

    async def _open_partial(self) -> PartialBlob:
        if self._file is not None:
            self._file.close()
        self._file = None
        self._progress.written_bytes = 0
        try:
            partial = await self._store.open_partial(self.digest)
        except StorageError as error:  # a read-only disk, or no room for one more name
            partial = self._store.hold_in_memory(self.digest)
            self._appender.pass_on(partial, str(error))
        self._file = self._partial = partial
        return partial

    async def _watch(self, partial: PartialBlob) -> None:
        progress = self._progress
        if not progress.is_open:
            origin = await partial.announced()
            if origin is not None:
                progress.open(origin.size_bytes)
        if partial.is_verified():  # complete, and on its way to its name
            progress.complete(partial.written_bytes())
        else:
            progress.advance(partial.written_bytes())
        await asyncio.sleep(_WATCH_SECONDS)

    async def _adopt(self, partial: PartialBlob) -> bool:
        """Take what another worker has just stored; False where it was evicted before it could be opened."""
        if partial.is_verified():
            self._progress.complete(partial.written_bytes())
            return True
        body = await self._store.find(self.digest)  # this file was made after the other had got its name
        if body is None:
            return False
        partial.close()
        self._file = body
        self._progress.complete(body.readable_now())
        return True

    async def _fill_or_start_over(self, partial: PartialBlob) -> bool:
        """Fill; False when what an earlier writer left was of no use and is gone, before anybody was sent any of it."""
        left_bytes = partial.written_bytes()
        try:
            await self._fill(partial)
        except UpstreamInvalid:
            if self._progress.is_open or not left_bytes:
                raise
            self._progress.size_bytes = None
            return False
        return True

    async def _fill(self, partial: PartialBlob) -> None:
        filling = Filling(
            self.digest,
            self.source,
            partial,
            progress=self._progress,
            appender=self._appender,
            observer=self._observer,
        )
        await filling.run()
        self._progress.complete(partial.written_bytes())
        if self.is_unstored:
            return
        try:
            partial.mark_verified()
            if not await self._room.admit(self.digest, partial.written_bytes()):
                await partial.discard()
                return
            await partial.commit()
            await self._room.settle(self.digest)
        except StorageError as error:  # the clients have their bytes; only the store has not
            log.error("store.failed", digest=str(self.digest), error=str(error))
