"""Bytes from a file, perhaps one that grows, to a client."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from mirror.ports import Body

_COPY_BYTES = 256 * 1024


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
    offset = first
    while end is None or offset < end:
        readable = await body.readable_to(offset)
        stop = readable if end is None else min(readable, end)
        if stop <= offset:
            if end is None:
                return
            raise ConnectionResetError("the file is shorter than its blob")
        if end is None:  # chunked framing is aiohttp's
            await _copy(response, body, offset, stop)
        else:
            await _send_file(request, response, body, offset, stop)
        sent(stop - offset)
        offset = stop


async def _send_file(request: web.BaseRequest, response: web.StreamResponse, body: Body, first: int, end: int) -> None:
    """Let the kernel copy, where the transport allows."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    if transport.get_extra_info("sslcontext") is not None:  # what is encrypted has to come through here
        await _copy(response, body, first, end)
        return
    try:
        await asyncio.get_running_loop().sendfile(transport, body, first, end - first, fallback=False)  # type: ignore[arg-type]
    except (NotImplementedError, asyncio.SendfileNotAvailableError):
        await _copy(response, body, first, end)
    except TimeoutError as error:
        raise ConnectionResetError("the client took nothing for too long") from error


async def _copy(response: web.StreamResponse, body: Body, first: int, end: int) -> None:
    while first < end:
        chunk = await asyncio.to_thread(os.pread, body.fileno(), min(_COPY_BYTES, end - first), first)
        if not chunk:
            raise ConnectionResetError("the file is shorter than its blob")
        await response.write(chunk)
        first += len(chunk)
