"""Faster than one connection: stretches of a large blob, fetched by several requests ahead of its one writer.

    written ──► [ part ][ part ][ part ]      the writer appends a part when it gets there, as it grows;
                  ▲       ▲       ▲           where there is none, it goes on by a request of its own
                request request request

Nothing hangs on the parts: one that breaks for good is used as far as it has come.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import structlog

from mirror.engine.intake import receiving
from mirror.errors import MirrorError, UpstreamInvalid

if TYPE_CHECKING:
    from types import TracebackType

    from mirror.engine.progress import Progress
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.ports import Part, PartialBlob, Upstream

log = structlog.get_logger(__name__)

LARGE_BYTES = 64 * 1024 * 1024
_PART_BYTES = 16 * 1024 * 1024
_PARTS_AHEAD = 8  # of what is not appended yet, at most
_LOOKED_AT_SECONDS = 0.25
_FAST_BYTES_PER_SECOND = 60_000_000  # then it may well be the mirror that holds the connection up, and a part is a copy
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.2


class Ahead:
    """The parts of one download, those that an earlier process left among them; its tasks end with the block."""

    def __init__(self, partial: PartialBlob, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        """Prepare; nothing is fetched before ``consider`` finds it worth while."""
        self._partial = partial
        self._upstream = upstream
        self._repository = repository
        self._digest = digest
        self._parts: list[Part] = []
        self._growing: set[Part] = set()
        self._size_bytes = 0
        self._written_bytes = 0
        self._planned = 0
        self._is_started = False
        self._has_no_ranges = False
        self._changed = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._group)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await self._stack.aclose()
        finally:
            for part in self._parts:
                if kind is None:  # everything is there
                    part.remove()
                else:
                    part.close()

    async def adopt(self) -> None:
        """Take over what an earlier writer has left."""
        self._parts = list(await self._partial.open_parts())

    # ---- what the writer asks

    def consider(self, progress: Progress, *, received_bytes: int, seconds: float, held_up_seconds: float) -> None:
        """Start fetching ahead where the writer's own connection, after a moment, turns out to be what holds it up.

        That is where it is slow, and where it had to wait for the writer for a quarter of the time at most.
        """
        written_bytes, size_bytes = progress.written_bytes, progress.size_bytes
        self._advance(written_bytes)
        if self._is_started or size_bytes is None or seconds < _LOOKED_AT_SECONDS:
            return
        remaining_bytes = size_bytes - written_bytes
        is_slow = received_bytes < seconds * _FAST_BYTES_PER_SECOND and held_up_seconds < seconds / 4
        number = min(self._upstream.parallel - 1, remaining_bytes // _PART_BYTES - 1)
        if size_bytes <= LARGE_BYTES or not is_slow or number < 1:
            return
        log.debug("download.parallel", digest=str(self._digest), at=written_bytes, connections=number + 1)
        self._is_started = True
        self._size_bytes = size_bytes
        self._planned = written_bytes + _PART_BYTES
        for _ in range(number):
            self._add_fetcher()

    def find(self, written_bytes: int) -> Part | None:
        """Return the part that has, or is about to have, what comes next."""
        self._advance(written_bytes)
        for part in self._parts:
            if part.first <= written_bytes < part.end or (part.first <= written_bytes and part in self._growing):
                return part
        return None

    def release_connection(self) -> None:
        """Take over the connection that the writer has used, since a part has what comes next."""
        running = sum(not task.done() for task in self._tasks)
        if self._is_started and not self._has_no_ranges and running < self._upstream.parallel:
            self._add_fetcher()

    async def readable_to(self, part: Part, offset: int) -> int:
        """Wait until a part has something at ``offset``; return its end, ``offset`` where nothing more comes."""
        while part.end <= offset and part in self._growing:
            await self._changed.wait()
        return max(part.end, offset)

    def drop(self, part: Part) -> None:
        """Forget a part that was appended."""
        self._parts.remove(part)
        self._growing.discard(part)
        part.remove()

    # ---- the requests

    def _add_fetcher(self) -> None:
        self._tasks.append(self._group.create_task(self._fetch()))

    async def _fetch(self) -> None:
        while not self._has_no_ranges:
            first, end = self._next()
            if first >= end:
                return
            if first > self._written_bytes + _PARTS_AHEAD * _PART_BYTES:
                await self._changed.wait()
                continue
            self._planned = end
            try:
                part = await self._partial.open_part(first)
            except MirrorError as error:
                log.debug("download.part_failed", digest=str(self._digest), at=first, error=str(error))
                return
            self._parts.append(part)
            self._growing.add(part)
            try:
                await self._fill(part, end)
            finally:
                self._growing.discard(part)
                self._wake()

    def _next(self) -> tuple[int, int]:
        """Return where the next part begins and ends: between those that are there."""
        first = max(self._planned, self._written_bytes)
        for part in sorted(self._parts, key=lambda one: one.first):
            if part.first <= first < part.end:
                first = part.end
        following = (part.first for part in self._parts if part.first > first)
        return first, min(first + _PART_BYTES, self._size_bytes, *following)

    async def _fill(self, part: Part, end: int) -> None:
        failures = 0
        while part.end < end and failures < _ATTEMPTS and not self._has_no_ranges:
            before = part.end
            try:
                await self._transfer(part, end)
            except MirrorError as error:
                failures = failures + 1 if part.end == before else 1
                log.debug("download.part_failed", digest=str(self._digest), at=part.end, error=str(error))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _transfer(self, part: Part, end: int) -> None:
        request = self._upstream.open_blob(self._repository, self._digest, first=part.end, last=end - 1)
        async with request as stream:
            if stream.offset != part.end:
                self._has_no_ranges = True
                raise UpstreamInvalid(f"{self._upstream.name} has no ranges", upstream=self._upstream.name)
            async with receiving(stream) as intake:
                while content := await intake.take():
                    if part.end + len(content) > end:
                        message = f"{self._upstream.name} sent more than the range that was asked for"
                        raise UpstreamInvalid(message, upstream=self._upstream.name)
                    await part.append(content)
                    self._wake()

    def _advance(self, written_bytes: int) -> None:
        if written_bytes != self._written_bytes:
            self._written_bytes = written_bytes
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
