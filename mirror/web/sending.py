"""Bytes from a file, perhaps one that grows, to a client."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from aiohttp import web

    from mirror.ports import Body

_COPY_BYTES = 256 * 1024
_AT_ONCE_BYTES = 2 * 1024 * 1024  # then other connections have their turn


async def send_body(
    request: web.BaseRequest,
    response: web.StreamResponse,
    body: Body,
    *,
    first: int,
    end: int | None,
    sent: Callable[[int], None],
) -> None:
    """Send ``body`` from ``first`` up to ``end`` (None: to wherever it turns out to end) as it becomes readable.

    Raises:
        UpstreamError: the rest will not come; what was sent stays incomplete for the client to see.
        ConnectionError: the client has left.
    """
    await _flush(request)
    with _file_sender(request, is_framed=end is None) as sender:
        offset = first
        while end is None or offset < end:
            readable = await body.readable_to(offset)
            stop = readable if end is None else min(readable, end)
            if stop <= offset:
                if end is None:
                    return
                raise ConnectionResetError("the file is shorter than its blob")
            if sender is None:
                await _copy(response, body, offset, stop)
            else:
                await sender.send(body.fileno(), offset, stop)
            sent(stop - offset)
            offset = stop


async def _flush(request: web.BaseRequest) -> None:
    """Wait until the head, and what came before it, is the kernel's."""
    transport = request.transport
    if isinstance(transport, asyncio.WriteTransport) and transport.get_write_buffer_size():
        transport.set_write_buffer_limits(0)
        await request.writer.drain()
        transport.set_write_buffer_limits()


@contextmanager
def _file_sender(request: web.BaseRequest, *, is_framed: bool) -> Iterator[FileSender | None]:
    """Let the kernel copy where nothing has to be done with the bytes: neither framing, aiohttp's, nor encryption."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    if is_framed or transport.get_extra_info("sslcontext") is not None:
        yield None
        return
    with transport.get_extra_info("socket").dup() as connection:  # asyncio lets nobody else watch a transport's own
        yield FileSender(connection)


class FileSender:
    """Sends stretches of files to one connection by ``sendfile``.

    Not by asyncio's own, which takes the connection out of ``epoll`` and puts it back for each piece.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Take a connection to which nobody else writes meanwhile."""
        self._connection = connection.fileno()
        self._loop = asyncio.get_running_loop()
        self._file = -1
        self._offset = self._end = 0

    async def send(self, descriptor: int, first: int, end: int) -> None:
        """Send a file's bytes from ``first`` up to ``end``.

        Raises:
            ConnectionError: the client has left, or the file is shorter.
        """
        self._file, self._offset, self._end = descriptor, first, end
        try:
            if self._send_some():
                return
            done = self._loop.create_future()
            self._loop.add_writer(self._connection, self._go_on, done)
            try:
                await done
            finally:
                self._loop.remove_writer(self._connection)
        except TimeoutError as error:
            raise ConnectionResetError("the client took nothing for too long") from error

    def _send_some(self) -> bool:
        """Send what the connection takes; say whether that was all."""
        try:
            size_bytes = min(self._end - self._offset, _AT_ONCE_BYTES)
            sent_bytes = os.sendfile(self._connection, self._file, self._offset, size_bytes)
        except BlockingIOError:
            return False
        if not sent_bytes:
            raise ConnectionResetError("the file is shorter than its blob")
        self._offset += sent_bytes
        return self._offset == self._end

    def _go_on(self, done: asyncio.Future[None]) -> None:
        if done.done():
            return
        try:
            if self._send_some():
                done.set_result(None)
        except OSError as error:
            done.set_exception(error)


async def _copy(response: web.StreamResponse, body: Body, first: int, end: int) -> None:
    while first < end:
        chunk = await asyncio.to_thread(os.pread, body.fileno(), min(_COPY_BYTES, end - first), first)
        if not chunk:
            raise ConnectionResetError("the file is shorter than its blob")
        await response.write(chunk)
        first += len(chunk)
