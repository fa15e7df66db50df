"""Reading a body in steps, and noticing when it ends short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from yarl import URL


@dataclass(slots=True)
class Reading:
    """An answer whose head is read and whose body is taken as it comes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int
    headers: Mapping[str, str]
    body: bytearray = field(default_factory=bytearray)

    @property
    def size_bytes(self) -> int:
        """What ``Content-Length`` promises."""
        return int(self.headers["content-length"])

    async def take(self, size_bytes: int) -> Self:
        """Wait for that many more bytes.

        Raises:
            asyncio.IncompleteReadError: the connection ended before.
        """
        self.body += await self.reader.readexactly(size_bytes)
        return self

    async def take_all(self) -> bool:
        """Read to the end of the connection or of the body; return whether the body was complete."""
        while len(self.body) < self.size_bytes:
            try:
                piece = await self.reader.read(min(1 << 20, self.size_bytes - len(self.body)))
            except ConnectionError:
                return False
            if not piece:
                return False
            self.body += piece
        return True

    def leave(self) -> None:
        """Break the connection."""
        self.writer.transport.abort()


@asynccontextmanager
async def reading(
    base_url: str, path: str, *, headers: Mapping[str, str] | None = None, buffer_bytes: int = 1 << 16
) -> AsyncIterator[Reading]:
    """GET a path on a connection of its own; read only the head."""
    url = URL(base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=buffer_bytes)
    try:
        lines = [f"GET {path} HTTP/1.1", f"Host: {url.authority}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        status_line, *header_lines = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        found = dict(line.lower().split(": ", 1) for line in header_lines if line)
        yield Reading(reader, writer, int(status_line.split()[1]), found)
    finally:
        writer.transport.abort()
