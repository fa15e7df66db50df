"""One blob in progress: one writer, many followers behind it, across requests and across worker processes.

    ┌─ claim: WRITER ──► filling ──digest matches──► complete ──► commit
    │                       │  ▲ └─ it does not ──► discarded, failed
  start                     ▼  └ broken: resume by Range
    │                    failed (what is written stays for the next writer)
    └─ claim: BUSY ────► watching what another worker writes ──► complete, failed, or the claim: it died, go on

Where there is no room for it, the rest goes through memory, no further ahead than the slowest follower allows.

Followers see the bytes up to a small tail, which is withheld until the digest matches.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from mirror.engine.ahead import Ahead
from mirror.engine.followers import DownloadBody, Followers
from mirror.engine.intake import LIMIT_BYTES, receiving
from mirror.errors import (
    DigestMismatch,
    MirrorError,
    RateLimited,
    StorageError,
    UpstreamError,
    UpstreamFailed,
    UpstreamInvalid,
    UpstreamUnreachable,
)
from mirror.oci.requests import Kind
from mirror.ports import Claim, Origin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.ports import BlobStore, Body, DownloadObserver, PartialBlob, Room, Upstream

log = structlog.get_logger(__name__)

_LARGEST_TAIL_BYTES = 16 * 1024
_WATCH_SECONDS = 0.004
_RETRY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # between attempts of which none brought a byte
_FIRST_RETRY_SECONDS = 0.2


def tail_bytes(size_bytes: int | None) -> int:
    """Return how much of the end waits for the digest to match: a quarter at most, so that a small blob flows."""
    if size_bytes is None:
        return _LARGEST_TAIL_BYTES
    return min(_LARGEST_TAIL_BYTES, -(-size_bytes // 4))


def _skip(pieces: Sequence[bytes], skip_bytes: int) -> tuple[int, Sequence[bytes]]:
    """Leave out the first bytes, which are there already; return how many more are to be left out of what follows."""
    if not skip_bytes:
        return 0, pieces
    fresh = []
    for piece in pieces:
        if len(piece) > skip_bytes:
            fresh.append(piece[skip_bytes:])
        skip_bytes = max(0, skip_bytes - len(piece))
    return skip_bytes, fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whom to ask for a blob, and how to make sure that the repository holds it before sharing what others fetch."""

    repository: Repository
    upstream: Upstream
    confirm: Callable[[], Awaitable[None]]


class Download:
    """The state that the writer and the followers of one blob share in this process."""

    def __init__(
        self, digest: Digest, source: Source, store: BlobStore, room: Room, observer: DownloadObserver
    ) -> None:
        """Prepare; nothing happens before ``run``."""
        self.digest = digest
        self.source = source
        self.followers = Followers()
        self._store = store
        self._room = room
        self._observer = observer
        self._file: PartialBlob | Body | None = None
        self._partial: PartialBlob | None = None
        self._users = 0
        self._changed = asyncio.Event()
        self._written_bytes = 0
        self._spilled_at: int | None = None
        self._released_bytes = 0
        self._is_open = False
        self._is_complete = False
        self._error: MirrorError | None = None
        self.was_stored_here = False
        self.size_bytes: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all of it is there and verified, though perhaps not yet durable under its name."""
        return self._is_complete

    @property
    def has_failed(self) -> bool:
        """Whether it ended without the whole blob."""
        return self._error is not None

    @property
    def is_unstored(self) -> bool:
        """Whether it goes through memory for want of room."""
        return self._spilled_at is not None

    @property
    def can_be_joined(self) -> bool:
        """Whether all of it is still there for who comes now."""
        return self._spilled_at is None or self._released_bytes <= self._spilled_at

    # ---- followers

    async def follow(self) -> DownloadBody:
        """Return a body that reads behind the writer, once the upstream has begun to answer.

        Raises:
            MirrorError: it refused, or could not be reached: nothing was sent to anybody yet.
        """
        self._users += 1  # before the wait: a small blob is complete, and its file closed, before this goes on
        body = DownloadBody(self)
        try:
            await self._opened()
        except BaseException:
            body.close()
            raise
        return body

    async def _opened(self) -> None:
        while not self._is_open:
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    def fileno_at(self, offset: int) -> int:
        """Return the descriptor of the file that has an offset; those who follow keep it open."""
        assert self._file is not None, "read after it was left"  # noqa: S101 - a mistake of ours
        return self._partial.fileno_at(offset) if self.is_unstored and self._partial else self._file.fileno()

    def end_at(self, offset: int, end: int) -> int:
        """Return the end of what can be read at an offset from one file."""
        return min(end, self._spilled_at) if self._spilled_at is not None and offset < self._spilled_at else end

    def readable_now(self) -> int:
        """Return the end of what followers may read."""
        if self._is_complete:
            return self._written_bytes
        if self.size_bytes is None:
            return max(0, self._written_bytes - tail_bytes(None))
        return min(self._written_bytes, self.size_bytes - tail_bytes(self.size_bytes))

    async def readable_to(self, offset: int) -> int:
        """Wait until there is something at ``offset``; return the end of what can be read, ``offset`` at the end."""
        while True:
            end = self.readable_now()
            if end > offset or self._is_complete:
                return end
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    def leave(self) -> None:
        """Give up one use of the file; the last one closes it."""
        self._users -= 1
        if self._users == 0 and self._file is not None:
            self._file.close()
            self._file = None

    # ---- the writer

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
            self._fail(error)
            raise
        except BaseException:
            self._fail(UpstreamFailed("the mirror is shutting down", upstream=self.source.upstream.name))
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
                    self._pass_on(partial, "the worker that wrote it found no room")
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
                if self._is_complete or await self._adopt(partial):
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
        self._written_bytes = 0
        try:
            partial = await self._store.open_partial(self.digest)
        except StorageError as error:  # a read-only disk, or no room for one more name
            partial = self._store.hold_in_memory(self.digest)
            self._pass_on(partial, str(error))
        self._file = self._partial = partial
        return partial

    async def _watch(self, partial: PartialBlob) -> None:
        if not self._is_open:
            origin = await partial.announced()
            if origin is not None:
                self._open(origin.size_bytes)
        if partial.is_verified():  # complete, and on its way to its name
            self._complete(partial.written_bytes())
        else:
            self._advance(partial.written_bytes())
        await asyncio.sleep(_WATCH_SECONDS)

    async def _adopt(self, partial: PartialBlob) -> bool:
        """Take what another worker has just stored; False where it was evicted before it could be opened."""
        if partial.is_verified():
            self._complete(partial.written_bytes())
            return True
        body = await self._store.find(self.digest)  # this file was made after the other had got its name
        if body is None:
            return False
        partial.close()
        self._file = body
        self._complete(body.readable_now())
        return True

    async def _fill_or_start_over(self, partial: PartialBlob) -> bool:
        """Fill; False when what an earlier writer left was of no use and is gone, before anybody was sent any of it."""
        left_bytes = partial.written_bytes()
        try:
            await self._fill(partial)
        except UpstreamInvalid:
            if self._is_open or not left_bytes:
                raise
            self.size_bytes = None
            return False
        return True

    async def _fill(self, partial: PartialBlob) -> None:
        self._advance(partial.written_bytes())
        if self._written_bytes:
            log.debug("download.resumed", digest=str(self.digest), size_bytes=self._written_bytes)
            await partial.read_written()
            origin = await partial.announced()
            self.size_bytes = self.size_bytes if origin is None else origin.size_bytes
        async with Ahead(partial, self.source.upstream, self.source.repository, self.digest) as ahead:
            if self._written_bytes and not self.is_unstored:
                await ahead.adopt()
            await self._transfer_with_retries(partial, ahead)
        if not partial.matches():
            await self._reject(partial)
        self._complete(partial.written_bytes())
        if self.is_unstored:
            return
        try:
            partial.mark_verified()
            await self._room.admit(self.digest, partial.written_bytes())
            await partial.commit()
            self.was_stored_here = True
        except StorageError as error:  # the clients have their bytes; only the store has not
            log.error("store.failed", digest=str(self.digest), error=str(error))

    async def _reject(self, partial: PartialBlob) -> None:
        upstream = self.source.upstream
        self._observer.digest_mismatched(upstream.name)
        upstream.note_wrong_content()
        log.error("blob.digest_mismatch", upstream=upstream.name, digest=str(self.digest))
        await partial.discard()
        message = f"{upstream.name} sent something else than {self.digest} for {self.source.repository.name}"
        raise DigestMismatch(message, upstream=upstream.name)

    async def _transfer_with_retries(self, partial: PartialBlob, ahead: Ahead) -> None:
        failures = 0
        while True:
            before = self._written_bytes
            started = asyncio.get_running_loop().time()
            try:
                return await self._transfer(partial, ahead)
            except UpstreamError as error:
                failures = 1 if self._written_bytes > before else failures + 1
                elapsed_seconds = asyncio.get_running_loop().time() - started
                wait_seconds = self._wait_before_retry(error, failures, elapsed_seconds)
                if wait_seconds is None:
                    if isinstance(error, UpstreamInvalid):  # what is there cannot be gone on with
                        await partial.discard()
                    raise
                log.debug("download.interrupted", digest=str(self.digest), at=self._written_bytes, error=str(error))
            await asyncio.sleep(wait_seconds)
            if self._written_bytes:
                self._observer.fill_resumed(self.source.upstream.name)

    def _wait_before_retry(self, error: UpstreamError, failures: int, elapsed_seconds: float) -> float | None:
        """Return how long to wait; None to give up.

        Before the first byte a client can still turn to another mirror, so only what failed fast is tried again, once.
        After it, giving up breaks the client's body: be patient.
        """
        if not (error.retryable or (isinstance(error, RateLimited) and self._is_open)):
            return None
        if not self._is_open:
            return _FIRST_RETRY_SECONDS if failures == 1 and elapsed_seconds < 1 else None
        return _RETRY_SECONDS[failures - 1] if failures <= len(_RETRY_SECONDS) else None

    async def _transfer(self, partial: PartialBlob, ahead: Ahead) -> None:
        """Append what was fetched ahead and what is asked for now, in turn, until everything is there."""
        while True:
            if self._is_open:
                await self._take_parts(partial, ahead)
            if await self._transfer_once(partial, ahead):
                return
            ahead.release_connection()

    async def _take_parts(self, partial: PartialBlob, ahead: Ahead) -> None:
        while (part := ahead.find(self._written_bytes)) is not None:
            while (end := await ahead.readable_to(part, self._written_bytes)) > self._written_bytes:
                size_bytes = min(end - self._written_bytes, LIMIT_BYTES)
                await self._append(partial, [await part.read(self._written_bytes, size_bytes)])
            ahead.drop(part)

    async def _transfer_once(self, partial: PartialBlob, ahead: Ahead) -> bool:
        """Ask for what is missing, once, and append it; False where a part has the rest, or some of it."""
        upstream = self.source.upstream
        if self.size_bytes is not None and self._written_bytes == self.size_bytes:
            if not self._is_open:
                await self.source.confirm()  # an earlier writer got it all, perhaps for another repository
                self._open(self.size_bytes)
            return True
        first = self._written_bytes
        async with upstream.open_blob(self.source.repository, self.digest, first=first) as stream:
            self._check_size(stream.size_bytes)
            if not self._is_open:
                size_bytes = self.size_bytes if stream.size_bytes is None else stream.size_bytes
                await self._announce(partial, size_bytes)
                self._open(size_bytes)
            skip_bytes = first - stream.offset  # an upstream without ranges starts over
            async with receiving(stream) as intake:
                started = asyncio.get_running_loop().time()
                while pieces := await intake.take():
                    skip_bytes, fresh = _skip(pieces, skip_bytes)
                    await self._append(partial, fresh)
                    if ahead.find(self._written_bytes) is not None:
                        return False
                    if self.is_unstored:
                        continue
                    seconds, received = asyncio.get_running_loop().time() - started, self._written_bytes - first
                    ahead.consider(self._written_bytes, self.size_bytes, seconds=seconds, received_bytes=received)
        if self.size_bytes is not None and self._written_bytes < self.size_bytes:
            message = f"{upstream.name} ended {self.digest} at {self._written_bytes} of {self.size_bytes} bytes"
            raise UpstreamUnreachable(message, upstream=upstream.name)
        return True

    def _check_size(self, told_bytes: int | None) -> None:
        if None not in (told_bytes, self.size_bytes) and told_bytes != self.size_bytes:
            message = f"{self.source.upstream.name} says {self.digest} has {told_bytes} bytes, not {self.size_bytes}"
            raise UpstreamInvalid(message, upstream=self.source.upstream.name)

    async def _append(self, partial: PartialBlob, pieces: Sequence[bytes]) -> None:
        end = self._written_bytes + sum(map(len, pieces))
        if self.size_bytes is not None and end > self.size_bytes:
            message = f"{self.source.upstream.name} sent more than {self.size_bytes} bytes for {self.digest}"
            raise UpstreamInvalid(message, upstream=self.source.upstream.name)
        if not self.is_unstored:
            try:
                await self._store_pieces(partial, pieces)
            except StorageError as error:
                self._spill(partial, str(error))
                pieces = self._rest(partial, pieces)
                self._advance(partial.written_bytes())
        if self._spilled_at is not None:
            self._released_bytes = await self.followers.come_near(self._written_bytes, self._spilled_at)
            partial.release(self._released_bytes)
            await partial.append(pieces)
        self._advance(end)

    # ---- where there is no room

    async def _announce(self, partial: PartialBlob, size_bytes: int | None) -> None:
        if self.is_unstored:
            return
        if not self._room.has_room_for(size_bytes):
            self._spill(partial, "there is no room for it")
            return
        try:
            await partial.announce(Origin(repository=self.source.repository, kind=Kind.BLOB, size_bytes=size_bytes))
            self._room.note_change()
        except StorageError as error:
            self._spill(partial, str(error))

    async def _store_pieces(self, partial: PartialBlob, pieces: Sequence[bytes]) -> None:
        try:
            await partial.append(pieces)
        except StorageError:
            await self._room.make_room()
            await partial.append(self._rest(partial, pieces))

    def _rest(self, partial: PartialBlob, pieces: Sequence[bytes]) -> Sequence[bytes]:
        """Return what of the pieces the disk has not taken."""
        return _skip(pieces, partial.written_bytes() - self._written_bytes)[1]

    def _spill(self, partial: PartialBlob, reason: str) -> None:
        """Store no more of it; what comes goes to those who follow."""
        partial.spill()
        self._pass_on(partial, reason)

    def _pass_on(self, partial: PartialBlob, reason: str) -> None:
        self._spilled_at = partial.spilled_at
        self._released_bytes = self._spilled_at or 0
        self._observer.fill_unstored()
        log.warning("download.unstored", digest=str(self.digest), error=reason)

    # ---- changes of state: synchronous, so that no lock is needed

    def _open(self, size_bytes: int | None) -> None:
        self.size_bytes = size_bytes
        self._is_open = True
        self._wake()

    def _advance(self, written_bytes: int) -> None:
        if written_bytes != self._written_bytes:
            self._written_bytes = written_bytes
            self._wake()

    def _complete(self, size_bytes: int) -> None:
        self._written_bytes = self.size_bytes = size_bytes
        self._is_open = self._is_complete = True
        self._wake()

    def _fail(self, error: MirrorError) -> None:
        if not self._is_complete:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        """Wake whoever waits; each looks for itself what has changed."""
        self._changed.set()
        self._changed = asyncio.Event()
