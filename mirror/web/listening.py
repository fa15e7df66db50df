"""The servers behind listening sockets, which end without cutting anything off."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiohttp import web

from mirror.web.server import HttpServer
from mirror.web.site import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.web.tls import ServerTls

_NO_GRACE_SECONDS: Final = 0.01  # aiohttp takes 0 for "as long as it takes"
_LOOKED_AFTER_SECONDS: Final = 0.1
_SETTLING_SECONDS: Final = 2.0  # connections were accepted that are not known yet: their TLS handshake runs


class Servers:
    """The HTTP servers of one mirror."""

    def __init__(self) -> None:
        """Begin without any."""
        self._runners: list[web.ServerRunner] = []

    async def begin(
        self,
        server: web.Server,
        sockets: Sequence[socket.socket],
        *,
        grace_seconds: float,
        handshake_seconds: float = math.inf,
        tls: ServerTls | None = None,
    ) -> None:
        """Answer on these sockets; with ``tls`` it is HTTPS on all but Unix sockets."""
        runner = web.ServerRunner(server, shutdown_timeout=max(grace_seconds, _NO_GRACE_SECONDS))
        await runner.setup()
        self._runners.append(runner)
        for listening in sockets:
            context = tls.context if tls is not None and listening.family != socket.AF_UNIX else None
            await Site(runner, listening, tls=context, handshake_seconds=handshake_seconds).start()

    async def end(self) -> None:
        """Accept nothing more, and give what is under way each server's grace."""
        for runner in reversed(self._runners):
            await runner.cleanup()

    async def drain(self, *, until: asyncio.Event) -> None:
        """Accept nothing more, and wait for all that is under way, however long it takes, or ``until`` that."""
        for runner in self._runners:
            for site in tuple(runner.sites):
                await site.stop()
        settled_at = time.monotonic() + _SETTLING_SECONDS
        while (self._retire() or time.monotonic() < settled_at) and not until.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOKED_AFTER_SECONDS):
                    await until.wait()

    def _retire(self) -> int:
        """Let go who asks for nothing; return how many are left."""
        servers = [runner.server for runner in self._runners if runner.server is not None]
        for server in servers:
            if isinstance(server, HttpServer):
                server.retire()
        return sum(len(server.connections) for server in servers)
