"""A listening socket that is served: aiohttp's, with what it cannot be told about waiting, handshakes and memory."""

from __future__ import annotations

import asyncio
from asyncio.sslproto import SSLProtocol
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

if TYPE_CHECKING:
    import socket
    import ssl

_BACKLOG: Final = 1024  # aiohttp would take the socket's own down to 128, which a fleet that starts at once exceeds


class _ServerTls(SSLProtocol):
    """asyncio's TLS, with buffers for requests and not for downloads: 110 KB a connection instead of 565."""

    max_size = 16 * 1024  # one TLS record


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
        self._handshake_seconds = handshake_seconds

    async def start(self) -> None:
        """Begin to accept."""
        await web.BaseSite.start(self)
        loop, server = asyncio.get_running_loop(), self._runner.server
        if server is None:
            raise RuntimeError("the runner was not set up")
        accept = server if self._ssl_context is None else partial(self._encrypted, loop, server, self._ssl_context)
        self._server = await loop.create_server(accept, sock=self._sock, backlog=self._backlog)

    def _encrypted(self, loop: asyncio.AbstractEventLoop, server: web.Server, tls: ssl.SSLContext) -> SSLProtocol:
        """Make the protocols of one connection, as ``create_server`` does with ``ssl``."""
        nobody: Any = None  # who would wait for the handshake
        seconds: Any = self._handshake_seconds  # any number, whatever the stubs say
        return _ServerTls(loop, server(), tls, nobody, server_side=True, ssl_handshake_timeout=seconds)
