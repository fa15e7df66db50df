"""Sending an answer, whole or spoiled, and counting what the socket took of it.

Bodies go to a duplicate of the connection's socket, files by sendfile: fast, and the count is exact at every moment.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, cast

from aiohttp import web

from tests.support import faults
from tests.support.content import Body, Part, body_of, cut_out, flip_byte, length_of, read_all
from tests.support.faults import Action, Family
from tests.support.record import Recorded
from tests.support.replies import Reply, error_reply

_PIECE_BYTES = 1 << 20
_INLINE_BYTES = 1 << 16
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


Hold = Callable[[], Awaitable[None]]


def spoil(reply: Reply, actions: Mapping[Family, Action], request: Mapping[str, str]) -> Reply:
    """Return the reply as the faults leave it: other content, the range cut out, headers changed."""
    headers = reply.headers.copy()
    body, takes_ranges = reply.body, reply.takes_ranges
    match actions.get(Family.CONTENT):
        case faults.FlipByte(position=position):
            body = flip_byte(body, position)
        case faults.Replace(body=content, content_type=content_type):
            body, takes_ranges = body_of(content), False
            if content_type is not None:
                headers["Content-Type"] = content_type
        case faults.Gzip() if "gzip" in request.get("Accept-Encoding", ""):
            body, takes_ranges = body_of(gzip.compress(read_all(body), mtime=0)), False
            headers["Content-Encoding"] = "gzip"
        case _:
            pass
    reply = replace(reply, headers=headers, body=body)
    if takes_ranges and not isinstance(actions.get(Family.RANGE), faults.IgnoreRange):
        reply = _cut_range(reply, request)
    return _spoil_headers(reply, actions)


def _spoil_headers(reply: Reply, actions: Mapping[Family, Action]) -> Reply:
    headers = reply.headers
    if reply.status != web.HTTPNotModified.status_code:
        headers["Content-Length"] = str(length_of(reply.body))
    match actions.get(Family.RANGE):
        case faults.WrongContentRange(value=None):
            headers.pop("Content-Range", None)
        case faults.WrongContentRange(value=str(value)) if "Content-Range" in headers:
            headers["Content-Range"] = value
        case _:
            pass
    content_type = actions.get(Family.TYPE_HEADER)
    if isinstance(content_type, faults.ContentType):
        headers["Content-Type"] = content_type.value.format(headers.get("Content-Type", ""))
    if Family.DIGEST_HEADER in actions:
        headers.pop("Docker-Content-Digest", None)
    if Family.FRAMING in actions:
        headers.pop("Content-Length", None)
    return reply


def _cut_range(reply: Reply, request: Mapping[str, str]) -> Reply:
    asked = _RANGE.fullmatch(request.get("Range", ""))
    size = length_of(reply.body)
    holds = request.get("If-Range") in {None, reply.headers.get("ETag")}
    if asked is None or asked.groups() == ("", "") or not size or not holds:
        return reply
    first_text, last_text = asked.groups()
    if first_text and last_text and int(first_text) > int(last_text):
        return reply
    first = int(first_text) if first_text else max(size - int(last_text), 0)
    last = min(int(last_text), size - 1) if first_text and last_text else size - 1
    if first >= size or (not first_text and last_text == "0"):
        refused = error_reply(web.HTTPRequestRangeNotSatisfiable.status_code, "RANGE_INVALID", "invalid content range")
        refused.headers["Content-Range"] = f"bytes */{size}"
        return refused
    reply.headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    body = cut_out(reply.body, first, last - first + 1)
    return replace(reply, status=web.HTTPPartialContent.status_code, body=body)


async def deliver(
    request: web.BaseRequest, reply: Reply, recorded: Recorded, actions: Mapping[Family, Action], hold: Hold
) -> web.StreamResponse:
    """Send a reply as its pace and ending say; return what aiohttp is to finish."""
    recorded.status = reply.status
    ending, pace = actions.get(Family.ENDING), actions.get(Family.PACE)
    size = length_of(reply.body)
    if request.method == "HEAD" or (ending is None and pace is None and size <= _INLINE_BYTES):
        return await _send_small(request, reply, recorded)
    stop = size if ending is None else _stop(cast("faults.Ending", ending), size)
    if isinstance(ending, faults.Reset) and stop == 0:
        return _break(request, web.Response())
    response = _head_of(reply)
    await response.prepare(request)
    sender = _Sender(request, response, recorded, cast("faults.Slow | None", pace))
    try:
        await sender.send(cut_out(reply.body, 0, stop))
        match ending:
            case faults.Cut():
                return _close(request, response)
            case faults.Reset():
                return _break(request, response)
            case faults.Silence():
                await hold()
                await sender.send(cut_out(reply.body, stop, size - stop))
            case _:
                pass
    except ConnectionError:
        return _break(request, response)
    return response


async def _send_small(request: web.BaseRequest, reply: Reply, recorded: Recorded) -> web.StreamResponse:
    """Send a small body or none: headers and body in one packet."""
    if "Content-Length" not in reply.headers:
        response = _head_of(reply)
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(read_all(reply.body))
            recorded.bytes_sent = length_of(reply.body)
        return response
    if request.method == "HEAD":
        return web.Response(status=reply.status, headers=reply.headers)
    recorded.bytes_sent = length_of(reply.body)
    return web.Response(status=reply.status, headers=reply.headers, body=read_all(reply.body))


def _head_of(reply: Reply) -> web.StreamResponse:
    return web.StreamResponse(status=reply.status, headers=reply.headers)


def _stop(ending: faults.Ending, size: int) -> int:
    """Return after how many body bytes it ends."""
    return min(int(size * ending.fraction) if ending.after_bytes is None else ending.after_bytes, size)


def _close(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """End the connection with FIN once everything written has left."""
    response.force_close()
    if request.transport is not None:
        request.transport.close()
    return response


def _break(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    """End the connection with RST."""
    response.force_close()
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return response


class _Sender:
    """Writes body bytes to one connection."""

    def __init__(
        self, request: web.BaseRequest, response: web.StreamResponse, recorded: Recorded, pace: faults.Slow | None
    ) -> None:
        self._request = request
        self._response = response
        self._recorded = recorded
        self._pace = pace
        self._piece_bytes = _PIECE_BYTES if pace is None else pace.chunk_bytes
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()

    async def send(self, body: Body) -> None:
        """Send every byte of a body.

        Raises:
            ConnectionError: the client has left.
        """
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError
        if "Content-Length" not in self._response.headers:
            await self._send_chunked(body)
            return
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(0)
        await self._request.writer.drain()  # the headers are out: from here on the socket is ours
        with ExitStack() as resources:
            raw = resources.enter_context(transport.get_extra_info("socket").dup())
            for part in body:
                file = None if isinstance(part.source, bytes) else resources.enter_context(part.source.open("rb"))
                await self._send_part(raw, file, part)

    async def _send_part(self, raw: socket.socket, file: IO[bytes] | None, part: Part) -> None:
        sent = 0
        while sent < part.length:
            count = min(self._piece_bytes, part.length - sent)
            try:
                if file is None:
                    start = part.offset + sent
                    taken = raw.send(memoryview(cast("bytes", part.source))[start : start + count])
                else:
                    taken = os.sendfile(raw.fileno(), file.fileno(), part.offset + sent, count)
            except BlockingIOError:
                await self._writable(raw)
                continue
            sent += taken
            await self._keep_pace(taken)

    async def _send_chunked(self, body: Body) -> None:
        for start in range(0, length_of(body), self._piece_bytes):
            piece = read_all(cut_out(body, start, self._piece_bytes))
            await self._response.write(piece)
            await self._keep_pace(len(piece))

    async def _keep_pace(self, taken: int) -> None:
        self._recorded.bytes_sent += taken
        pause = 0.0  # lets other connections have their turn
        if self._pace is not None:
            pause = self._pace.between_chunks_seconds
            if self._pace.bytes_per_second:
                due = self._started_at + self._recorded.bytes_sent / self._pace.bytes_per_second
                pause = max(pause, due - self._loop.time())
        await asyncio.sleep(pause)

    async def _writable(self, raw: socket.socket) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(raw, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_writer(raw)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
