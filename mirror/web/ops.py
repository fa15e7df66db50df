"""For who watches: /healthz, /readyz, /metrics and /api/v1/overview for machines, the page at / for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mirror.errors import StorageError
from mirror.web.page.document import PAGE_HEADERS, render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.figures import Overview


PROBES: Final = frozenset({"/healthz", "/readyz"})
OPS_PATHS: Final = PROBES | {"/", "/metrics", "/api/v1/overview"}


class WritableStore(Protocol):
    """What readiness asks of the store."""

    async def check_writable(self) -> None:
        """Raise StorageError when nothing can be stored."""
        ...


class OpsHandlers:
    """Answers these paths."""

    def __init__(
        self,
        store: WritableStore,
        scrape: Callable[[], Awaitable[bytes]],
        look: Callable[[], Awaitable[Overview]],
    ) -> None:
        """Join the parts: ``scrape`` gives the metrics of all workers, ``look`` how things stand."""
        self._store = store
        self._scrape = scrape
        self._look = look

    async def answer(self, path: str) -> web.Response:
        """Answer one of the paths."""
        match path:
            case "/healthz":
                return await self.healthz()
            case "/readyz":
                return await self.readyz()
            case "/metrics":
                return await self.metrics()
            case "/api/v1/overview":
                return await self.overview()
            case _:
                return await self.page()

    async def overview(self) -> web.Response:
        """How things stand, for programs."""
        overview = await self._look()
        return web.json_response(overview.to_json(), headers={"Cache-Control": "no-store"})

    async def page(self) -> web.Response:
        """How things stand, for people."""
        return web.Response(
            body=render(await self._look()), content_type="text/html", charset="utf-8", headers=PAGE_HEADERS
        )

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
