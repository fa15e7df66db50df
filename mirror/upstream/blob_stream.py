"""A blob on its way from an upstream, into memory that is the receiver's: through aiohttp, or past it.

aiohttp makes an object of every 256 KiB or less that come, parses, queues and drops it, which at hundreds of MB/s is
most of the work. So once the head of a large answer has been read, a protocol of ours takes the connection over and
lets asyncio, with TLS as without, put the bytes where they belong. The connection is closed after that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import aiohttp

from mirror.errors import UpstreamUnreachable
from mirror.oci.requests import Kind
from mirror.upstream.tokens import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.ports import Sink, UpstreamObserver

_LARGE_BYTES = 16 * 1024 * 1024  # for less, a connection that can be used again is worth more


@dataclass(frozen=True, slots=True)
class HttpBlobStream:
    """An answer with a blob, or the rest of one, in its body."""

    response: aiohttp.ClientResponse
    offset: int
    size_bytes: int | None
    upstream: str
    observer: UpstreamObserver
    silence_seconds: float

    async def receive(self, sink: Sink) -> None:
        """Put the bytes into the sink as they come, until the last.

        Raises:
            UpstreamUnreachable: the transfer broke or went silent.
        """
        content = self.response.content
        try:
            direct = DirectReceiver.instead_of_aiohttp(self.response, sink, self._count)
            if direct is not None:
                await direct.receive()
                return
            while True:
                # aiohttp's own limit takes what frames a chunk, which may never come to its content, for content
                async with asyncio.timeout(self.silence_seconds):
                    piece, _ = await content.readchunk()  # no copy, unlike readany
                await self._pour(piece, sink)
                if not piece and content.at_eof():
                    return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            await self._pour(_take_rest(content), sink)
            raise broken_off(self.upstream, error) from error

    async def _pour(self, piece: bytes, sink: Sink) -> None:
        self._count(len(piece))
        await pour(piece, sink)

    def _count(self, size_bytes: int) -> None:
        self.observer.upstream_sent(self.upstream, Kind.BLOB, size_bytes)


def broken_off(upstream: str, error: BaseException) -> UpstreamUnreachable:
    """Say that a transfer has ended early."""
    return UpstreamUnreachable(f"{upstream} broke off: {describe(error)}", upstream=upstream)


def _take_rest(content: aiohttp.StreamReader) -> bytes:
    """Return what had come before a transfer broke: aiohttp holds it, and gives only the error, until that is taken."""
    content.set_exception(None)  # type: ignore[arg-type]  # it says so nowhere, and takes it
    return content.read_nowait()


async def pour(piece: bytes, sink: Sink) -> None:
    """Copy bytes into a sink, as it has room."""
    rest = memoryview(piece)
    while rest:
        await sink.wait_for_room()
        room = sink.room()
        size_bytes = min(len(room), len(rest))
        room[:size_bytes] = rest[:size_bytes]
        sink.filled(size_bytes)
        rest = rest[size_bytes:]


class DirectReceiver(asyncio.BufferedProtocol):
    """Receives what is left of a body of known length, in aiohttp's place."""

    def __init__(self, response: aiohttp.ClientResponse, sink: Sink, count: Callable[[int], None]) -> None:
        """Take a response of which nothing was read, while its connection is open."""
        self._response = response
        self._sink = sink
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._heard_at = 0.0
        self._is_reading = False
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._left_bytes = response.content_length or 0

    @classmethod
    def instead_of_aiohttp(
        cls, response: aiohttp.ClientResponse, sink: Sink, count: Callable[[int], None]
    ) -> Self | None:
        """Make one where it is worth while: the body is large, and comes as it is."""
        is_large = (response.content_length or 0) >= _LARGE_BYTES
        if not is_large or "Transfer-Encoding" in response.headers or response.connection is None:
            return None
        return cls(response, sink, count)

    async def receive(self) -> None:
        """Receive until the last byte.

        Raises:
            aiohttp.ClientError, TimeoutError, OSError: the transfer broke or went silent.
        """
        connection = self._response.connection
        if connection is None or connection.protocol is None or connection.transport is None:
            raise aiohttp.ClientConnectionError("the connection is closed")
        self._handler, self._transport = connection.protocol, connection.transport
        patience_seconds = self._handler.read_timeout
        early = self._take_over()
        self._left_bytes -= len(early)
        self._count(len(early))
        await pour(early, self._sink)
        if patience_seconds:
            self._listen(patience_seconds)
        try:
            while self._left_bytes:
                await self._sink.wait_for_room()
                await self._receive_some()
        finally:
            self._transport.pause_reading()
            if self._timer is not None:
                self._timer.cancel()

    async def _receive_some(self) -> None:
        """Receive until there is no more room, or everything has come."""
        self._changed.clear()
        self._raise_error()
        self._heard_at = self._loop.time()
        self._is_reading = True
        self._transport.resume_reading()
        await self._changed.wait()
        self._is_reading = False
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None and self._left_bytes:
            raise self._error

    def _listen(self, patience_seconds: float) -> None:
        """End it when nothing has come for so long although it was waited for; look again when that may be."""
        quiet_seconds = self._loop.time() - self._heard_at if self._is_reading else 0.0
        if quiet_seconds >= patience_seconds:
            self._end(TimeoutError("no byte came in time"))
            return
        self._timer = self._loop.call_later(patience_seconds - quiet_seconds, self._listen, patience_seconds)

    def _take_over(self) -> bytes:
        """Step into aiohttp's place, without an await in between; return what it has received of the body."""
        self._handler.read_timeout = None
        early = bytearray()
        while piece := self._response.content.read_nowait():
            early += piece
        self._handler.pause_reading()
        self._transport.set_protocol(self)
        return bytes(early)

    # ---- what asyncio calls

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the next bytes belong."""
        return self._sink.room()[: self._left_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """Note what came, and stop where there is no room for more."""
        self._heard_at = self._loop.time()
        self._left_bytes -= nbytes
        self._sink.filled(nbytes)
        self._count(nbytes)
        if not self._left_bytes or not self._sink.room():
            self._transport.pause_reading()
            self._changed.set()

    def eof_received(self) -> None:
        """Take the end as one that came too early: after the last byte nobody reads."""
        self._end(aiohttp.ClientPayloadError(f"the connection ended {self._left_bytes} bytes too early"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell aiohttp too, which waits for it when it is closed."""
        self._end(exc or aiohttp.ClientConnectionError("the connection was closed"))
        self._handler.connection_lost(exc)

    def _end(self, error: Exception) -> None:
        self._error = self._error or error
        self._changed.set()
