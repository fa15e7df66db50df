"""An upstream that speaks bytes: what it answers need not be HTTP, nor ever end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

Pieces = bytes | Iterable[bytes] | AsyncIterable[bytes]


@dataclass(frozen=True, slots=True)
class RawRequest:
    """The head of a request that a mirror has sent."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def kind(self) -> str:
        """What is asked for: ping, manifests, blobs, tags, referrers, or something else by its last segments."""
        segments = self.target.partition("?")[0].split("/")
        return "ping" if segments[-2:] == ["v2", ""] else segments[-2]


@dataclass(slots=True)
class RawServer:
    """Answers each request with the pieces that ``answer`` returns for it, then closes; counts what was taken.

    A connection whose answer is ``bytes`` is kept for the next request, if these say how long they are.
    """

    answer: Callable[[RawRequest], Pieces]
    address: str = "127.0.0.1"
    requests: list[RawRequest] = field(default_factory=list)
    connections: int = 0
    bytes_taken: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.address, 0, backlog=256)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port; known once it was started."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        """``http://address:port``."""
        return f"http://{self.address}:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            # the streams of Python 3.11 log a cancelled handler as an error
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.split("\r\n")[:-2]
        method, target, _ = line.split(" ")
        assert all("!" <= character <= "~" for character in target)
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        request = RawRequest(method, target, headers)
        self.requests.append(request)
        pieces = self.answer(request)
        if isinstance(pieces, bytes):
            await self._write(writer, pieces)
            return b"\r\nContent-Length: " in pieces or b" 204 " in pieces
        if isinstance(pieces, AsyncIterable):
            async for piece in pieces:
                await self._write(writer, piece)
        else:
            for piece in pieces:
                await self._write(writer, piece)
                await asyncio.sleep(0)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return False

    async def _write(self, writer: asyncio.StreamWriter, piece: bytes) -> None:
        writer.write(piece)
        await writer.drain()
        self.bytes_taken += len(piece)


def respond(
    body: bytes = b"", *, status: int = 200, headers: Iterable[tuple[str, str]] = (), length: int | None = None
) -> bytes:
    """Write an answer with ``Content-Length``, of the body or of another ``length``."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body
