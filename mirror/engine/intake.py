"""Bytes on their way from a transfer to the disk: received as soon as they come, written in large batches."""

from __future__ import annotations

import asyncio
import mmap
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mirror.errors import MirrorError, UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mirror.ports import BlobStream

LIMIT_BYTES = 2 * 1024 * 1024  # of which a slow transfer touches only what comes in a moment
_GATHERING_SECONDS = 0.003


class Intake:
    """Two buffers: a transfer fills one while what is in the other is written; all the memory that a transfer takes.

    Receiving at once matters when a transfer breaks: what was received counts, what the connection still holds is lost.
    """

    def __init__(self) -> None:
        """Begin empty; each buffer has `LIMIT_BYTES`."""
        # pages of their own: those of a small blob are never touched, and all are given back, which a heap does not
        self._filling = memoryview(mmap.mmap(-1, LIMIT_BYTES))
        self._lent = memoryview(mmap.mmap(-1, LIMIT_BYTES))
        self._size_bytes = 0
        self._arrived = asyncio.Event()
        self._enough = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_begun = False
        self._has_ended = False
        self._error: UpstreamError | None = None
        self.held_up_seconds = 0.0

    # ---- the side of the transfer

    def room(self) -> memoryview:
        """Return where the next bytes belong; nothing while there is no room."""
        return self._filling[self._size_bytes :]

    def filled(self, size_bytes: int) -> None:
        """Note that the beginning of the room was filled."""
        self._size_bytes += size_bytes
        self._arrived.set()
        if self._size_bytes == len(self._filling):
            self._enough.set()

    async def wait_for_room(self) -> None:
        """Wait until what came before is on its way."""
        if self._size_bytes < len(self._filling):
            return
        started = asyncio.get_running_loop().time()
        while self._size_bytes == len(self._filling):
            self._has_room.clear()
            await self._has_room.wait()
        self.held_up_seconds += asyncio.get_running_loop().time() - started

    async def receive(self, stream: BlobStream) -> None:
        """Take all of a transfer, as fast as ``take`` makes room; how it ended, ``take`` tells."""
        try:
            await stream.receive(self)
        except UpstreamError as error:
            self._error = error
        finally:
            self._has_ended = True
            self._arrived.set()
            self._enough.set()

    # ---- the side of the writer

    async def take(self) -> memoryview:
        """Wait for bytes and return all that have come, good until the next call; nothing at the end.

        Raises:
            UpstreamError: the transfer broke, and all that it brought was taken.
        """
        await self._wait_for_bytes()
        taken = self._filling[: self._size_bytes]
        self._filling, self._lent = self._lent, self._filling
        self._size_bytes = 0
        self._has_begun = True
        self._has_room.set()
        if not self._has_ended:
            self._arrived.clear()
            self._enough.clear()
        elif not taken and self._error is not None:
            raise self._error
        return taken

    async def _wait_for_bytes(self) -> None:
        await self._arrived.wait()
        if self._has_begun and not self._enough.is_set():
            # a hand-over to the writing thread costs as much as writing 100 KB: a moment later there is more to take
            timer = asyncio.get_running_loop().call_later(_GATHERING_SECONDS, self._enough.set)
            await self._enough.wait()
            timer.cancel()


@asynccontextmanager
async def receiving(stream: BlobStream) -> AsyncIterator[Intake]:
    """Receive from a transfer in a task of its own while the block takes; the task ends with the block."""
    intake = Intake()
    failure: MirrorError | ConnectionError | None = None
    async with asyncio.TaskGroup() as group:
        task = group.create_task(intake.receive(stream))
        try:
            yield intake
        except (MirrorError, ConnectionError) as error:  # the writer's, or that of a client who has left
            failure = error  # raised below: a group would wrap it into an ExceptionGroup
        finally:
            task.cancel()
    if failure is not None:
        raise failure
