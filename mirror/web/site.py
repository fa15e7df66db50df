"""A listening socket that is served: aiohttp's, with the limits that it cannot be told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    import socket
    import ssl

_BACKLOG: Final = 1024  # aiohttp would take the socket's own down to 128, which a fleet that starts at once exceeds


class Site(web.SockSite):
    """Accepts connections; a TLS handshake gets no longer than a request's head does."""

    def __init__(
        self,
        runner: web.ServerRunner,
        listening: socket.socket,
        *,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        """Take the socket, and for HTTPS the context."""
        super().__init__(runner, listening, ssl_context=tls, backlog=_BACKLOG)
        self._handshake_seconds = None if tls is None else handshake_seconds

    async def start(self) -> None:
        """Begin to accept."""
        await web.BaseSite.start(self)
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner was not set up")
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=self._handshake_seconds,
        )
