"""Probes: endpoints that are down are asked, behind the scenes and ever more rarely, whether they answer again."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import structlog

from mirror.oci.requests import Kind

if TYPE_CHECKING:
    from mirror.concurrency.supervisor import Supervisor
    from mirror.ports import UpstreamObserver
    from mirror.upstream.endpoints import Endpoint
    from mirror.upstream.sessions import Sessions

log = structlog.get_logger(__name__)

_ANSWER_SECONDS = 10.0


class Prober:
    """Probes the endpoints of one upstream."""

    def __init__(
        self, upstream: str, sessions: Sessions, supervisor: Supervisor, *, observer: UpstreamObserver
    ) -> None:
        """Join the parts."""
        self._upstream = upstream
        self._sessions = sessions
        self._supervisor = supervisor
        self._observer = observer

    def watch(self, endpoint: Endpoint) -> None:
        """Probe an endpoint that has just gone down until it is up, by a probe or by a request that it answered."""
        log.warning("upstream.endpoint_down", upstream=self._upstream, endpoint=str(endpoint.url))
        _ = self._supervisor.start(self._probe(endpoint), name=f"probe {endpoint.url}")

    async def _probe(self, endpoint: Endpoint) -> None:
        while endpoint.is_down:
            await asyncio.sleep(endpoint.next_probe_seconds())
            endpoint.probes += 1
            if endpoint.is_down and await self._answers(endpoint):
                endpoint.rise()
        log.info("upstream.endpoint_up", upstream=self._upstream, endpoint=str(endpoint.url))
        self._observer.upstream_up(self._upstream, is_up=True)

    async def _answers(self, endpoint: Endpoint) -> bool:
        """Ask ``/v2/`` without any credential: a challenge is an answer too."""
        started = time.monotonic()
        code = "error"
        try:
            async with (
                asyncio.timeout(_ANSWER_SECONDS),
                self._sessions.current.get(endpoint.url / "v2/", allow_redirects=False) as response,
            ):
                code = str(response.status)
                return response.status < HTTPStatus.INTERNAL_SERVER_ERROR
        except (aiohttp.ClientError, OSError):
            return False
        finally:
            self._observer.upstream_answered(self._upstream, Kind.OTHER, "GET", code, time.monotonic() - started)
