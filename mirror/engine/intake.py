"""Pieces on their way from a transfer to the disk: received as soon as they come, written in large batches."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mirror.errors import MirrorError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mirror.ports import BlobStream

LIMIT_BYTES = 1024 * 1024
_GATHERING_SECONDS = 0.003


class Intake:
    """A bounded buffer between the task that receives and the one that writes.

    Receiving at once matters when a transfer breaks: what was received counts, what aiohttp still holds is lost.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._pieces: list[bytes] = []
        self._size_bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._has_ended = False
        self._has_begun = False
        self._error: UpstreamError | None = None

    async def receive(self, stream: BlobStream) -> None:
        """Take all of a transfer, as fast as ``take`` makes room; how it ended, ``take`` tells."""
        try:
            async for piece in stream.pieces():
                self._pieces.append(piece)
                self._size_bytes += len(piece)
                self._arrived.set()
                if self._size_bytes >= LIMIT_BYTES:
                    self._room.clear()
                    await self._room.wait()
        except UpstreamError as error:
            self._error = error
        finally:
            self._has_ended = True
            self._arrived.set()

    async def take(self) -> Sequence[bytes]:
        """Wait for bytes and return all that have come; nothing at the end.

        Raises:
            UpstreamError: the transfer broke, and all that it brought was taken.
        """
        await self._arrived.wait()
        if self._has_begun and self._size_bytes < LIMIT_BYTES // 2 and not self._has_ended:
            # a hand-over to the writing thread costs as much as writing 100 KB: a moment later there is more to take
            await asyncio.sleep(_GATHERING_SECONDS)
        pieces, self._pieces, self._size_bytes = self._pieces, [], 0
        self._has_begun = True
        self._room.set()
        if not self._has_ended:
            self._arrived.clear()
        elif not pieces and self._error is not None:
            raise self._error
        return pieces


@asynccontextmanager
async def receiving(stream: BlobStream) -> AsyncIterator[Intake]:
    """Receive from a transfer in a task of its own while the block writes; the task ends with the block."""
    intake = Intake()
    failure: MirrorError | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(intake.receive(stream))
        try:
            yield intake
        except MirrorError as error:
            failure = error  # raised below: a group would wrap it into an ExceptionGroup
        finally:
            task.cancel()
    if failure is not None:
        raise failure
