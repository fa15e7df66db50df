"""For machines that watch the mirror: /healthz, /readyz, /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mirror.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class WritableStore(Protocol):
    """What readiness asks of the store."""

    async def check_writable(self) -> None:
        """Raise StorageError when nothing can be stored."""
        ...


class OpsHandlers:
    """Answers the three paths."""

    def __init__(self, store: WritableStore, scrape: Callable[[], Awaitable[bytes]]) -> None:
        """Join the parts; ``scrape`` gives the metrics of all workers in Prometheus's text format."""
        self._store = store
        self._scrape = scrape

    async def healthz(self) -> web.Response:
        """The process lives."""
        return web.Response(text="ok\n")

    async def readyz(self) -> web.Response:
        """It can serve: the store is writable. An upstream's failure does not make it unready."""
        try:
            await self._store.check_writable()
        except StorageError as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(text="ready\n")

    async def metrics(self) -> web.Response:
        """All metrics, whichever worker is asked."""
        return web.Response(body=await self._scrape(), headers={"Content-Type": CONTENT_TYPE_LATEST})
