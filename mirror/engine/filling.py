"""The writer's work: from the upstream into the file, and on by ``Range`` when a transfer breaks, until all matches.

┌──► a part that was fetched ahead ──► appended ──┐
├──► a request for the rest ─────────► appended ──┼──► everything is there ──► digest matches ──► filled
└────────────── broken: a pause ◄─────────────────┘                      └──► discarded, failed
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from mirror.engine.ahead import Ahead
from mirror.engine.intake import LIMIT_BYTES, receiving
from mirror.errors import DigestMismatch, RateLimited, UpstreamError, UpstreamInvalid, UpstreamUnreachable

if TYPE_CHECKING:
    from mirror.engine.appending import Appender
    from mirror.engine.intake import Intake
    from mirror.engine.progress import Progress
    from mirror.engine.source import Source
    from mirror.oci.digest import Digest
    from mirror.ports import Bytes, DownloadObserver, PartialBlob

log = structlog.get_logger(__name__)

_RETRY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # between attempts of which none brought a byte
_FIRST_RETRY_SECONDS = 0.2


class Filling:
    """Fills one file, which its caller has claimed."""

    def __init__(
        self,
        digest: Digest,
        source: Source,
        partial: PartialBlob,
        *,
        progress: Progress,
        appender: Appender,
        observer: DownloadObserver,
    ) -> None:
        """Prepare; nothing happens before ``run``."""
        self._digest = digest
        self._source = source
        self._upstream = source.upstream
        self._partial = partial
        self._progress = progress
        self._appender = appender
        self._observer = observer

    async def run(self) -> None:
        """Fill, from where an earlier writer has stopped, until everything is there and matches.

        Raises:
            MirrorError: it cannot be had.
        """
        partial, progress = self._partial, self._progress
        progress.advance(partial.written_bytes())
        if progress.written_bytes:
            log.debug("download.resumed", digest=str(self._digest), size_bytes=progress.written_bytes)
            await partial.read_written()
            origin = await partial.announced()
            progress.size_bytes = progress.size_bytes if origin is None else origin.size_bytes
        async with Ahead(partial, self._upstream, self._source.repository, self._digest) as ahead:
            if progress.written_bytes and not self._appender.is_unstored:
                await ahead.adopt()
            await self._transfer_with_retries(ahead)
        if not partial.matches():
            await self._reject()

    async def _reject(self) -> None:
        upstream = self._upstream
        self._observer.digest_mismatched(upstream.name)
        upstream.note_wrong_content()
        log.error("blob.digest_mismatch", upstream=upstream.name, digest=str(self._digest))
        await self._partial.discard()
        message = f"{upstream.name} sent something else than {self._digest} for {self._source.repository.name}"
        raise DigestMismatch(message, upstream=upstream.name)

    # ---- attempts

    async def _transfer_with_retries(self, ahead: Ahead) -> None:
        failures = 0
        while True:
            before = self._progress.written_bytes
            started = asyncio.get_running_loop().time()
            try:
                return await self._transfer(ahead)
            except UpstreamError as error:
                written_bytes = self._progress.written_bytes
                failures = 1 if written_bytes > before else failures + 1
                elapsed_seconds = asyncio.get_running_loop().time() - started
                wait_seconds = self._wait_before_retry(error, failures, elapsed_seconds)
                if wait_seconds is None:
                    if isinstance(error, UpstreamInvalid):  # what is there cannot be gone on with
                        await self._partial.discard()
                    raise
                log.debug("download.interrupted", digest=str(self._digest), at=written_bytes, error=str(error))
            await asyncio.sleep(wait_seconds)
            if self._progress.written_bytes:
                self._observer.fill_resumed(self._upstream.name)

    def _wait_before_retry(self, error: UpstreamError, failures: int, elapsed_seconds: float) -> float | None:
        """Return how long to wait; None to give up.

        Before the first byte a client can still turn to another mirror, so only what failed fast is tried again, once.
        After it, giving up breaks the client's body: be patient.
        """
        is_open = self._progress.is_open
        if not (error.retryable or (isinstance(error, RateLimited) and is_open)):
            return None
        if not is_open:
            return _FIRST_RETRY_SECONDS if failures == 1 and elapsed_seconds < 1 else None
        return _RETRY_SECONDS[failures - 1] if failures <= len(_RETRY_SECONDS) else None

    async def _transfer(self, ahead: Ahead) -> None:
        """Append what was fetched ahead and what is asked for now, in turn, until everything is there."""
        while True:
            if self._progress.is_open:
                await self._take_parts(ahead)
            if await self._transfer_once(ahead):
                return
            ahead.release_connection()

    async def _take_parts(self, ahead: Ahead) -> None:
        progress = self._progress
        while (part := ahead.find(progress.written_bytes)) is not None:
            while (end := await ahead.readable_to(part, progress.written_bytes)) > progress.written_bytes:
                size_bytes = min(end - progress.written_bytes, LIMIT_BYTES)
                await self._append(await part.read(progress.written_bytes, size_bytes))
            ahead.drop(part)

    async def _transfer_once(self, ahead: Ahead) -> bool:
        """Ask for what is missing, once, and append it; False where a part has the rest, or some of it."""
        source, progress = self._source, self._progress
        if progress.size_bytes is not None and progress.written_bytes == progress.size_bytes:
            if not progress.is_open:
                await source.confirm()  # an earlier writer got it all, perhaps for another repository
                progress.open(progress.size_bytes)
            return True
        first = progress.written_bytes
        async with source.upstream.open_blob(source.repository, self._digest, first=first) as stream:
            self._check_size(stream.size_bytes)
            if not progress.is_open:
                size_bytes = progress.size_bytes if stream.size_bytes is None else stream.size_bytes
                await self._appender.announce(self._partial, source.repository, size_bytes)
                progress.open(size_bytes)
            async with receiving(stream) as intake:
                # an upstream without ranges starts over
                if not await self._append_all(intake, ahead, skip_bytes=first - stream.offset):
                    return False
        if progress.size_bytes is not None and progress.written_bytes < progress.size_bytes:
            message = f"{self._upstream.name} ended {self._digest} at {progress.written_bytes} of {progress.size_bytes}"
            raise UpstreamUnreachable(f"{message} bytes", upstream=self._upstream.name)
        return True

    def _check_size(self, told_bytes: int | None) -> None:
        size_bytes = self._progress.size_bytes
        if None not in (told_bytes, size_bytes) and told_bytes != size_bytes:
            message = f"{self._upstream.name} says {self._digest} has {told_bytes} bytes, not {size_bytes}"
            raise UpstreamInvalid(message, upstream=self._upstream.name)

    async def _append_all(self, intake: Intake, ahead: Ahead, *, skip_bytes: int) -> bool:
        """Append a transfer but for what is there already; False where a part has what comes next."""
        progress, clock = self._progress, asyncio.get_running_loop().time
        first, started = progress.written_bytes, clock()
        while content := await intake.take():
            fresh = content[skip_bytes:]
            skip_bytes -= len(content) - len(fresh)
            await self._append(fresh)
            if ahead.find(progress.written_bytes) is not None:
                return False
            if not self._appender.is_unstored:
                ahead.consider(
                    progress,
                    received_bytes=progress.written_bytes - first,
                    seconds=clock() - started,
                    held_up_seconds=intake.held_up_seconds,
                )
        return True

    async def _append(self, content: Bytes) -> None:
        progress = self._progress
        end = progress.written_bytes + len(content)
        most_bytes = self._source.most_bytes if progress.size_bytes is None else progress.size_bytes
        if end > most_bytes:
            message = f"{self._upstream.name} sent more than {most_bytes} bytes for {self._digest}"
            raise UpstreamInvalid(message, upstream=self._upstream.name)
        await self._appender.append(self._partial, content)
        progress.advance(end)
