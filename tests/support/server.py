"""An HTTP server on loopback that keeps a record of its requests and has faults."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol, Self

from aiohttp import web
from multidict import CIMultiDict

from tests.support import faults
from tests.support.content import body_of, read_all
from tests.support.delivery import deliver, spoil
from tests.support.faults import Action, Exchange, Family, FaultList
from tests.support.record import Record, Recorded
from tests.support.replies import Reply, error_reply

LOOPBACK = "127.0.0.1"  # 127.0.0.2 and so on are other hosts: every address of 127.0.0.0/8 is this machine
_KEEP_ALIVE_SECONDS = 3600
_HEADER_BYTES = 1 << 16
_PATIENCE_SECONDS = 0.01  # with what still runs when it stops; aiohttp takes 0 for "for ever"


class Site(Protocol):
    """What a server is about: reads requests, decides answers; sends nothing itself."""

    def recognise(self, request: web.BaseRequest) -> Recorded | None:
        """Say what is asked for; None keeps the request out of the record and away from faults."""
        ...

    async def answer(self, request: web.BaseRequest, recorded: Recorded | None) -> Reply:
        """Return the healthy answer."""
        ...

    def locate(self, recorded: Recorded, redirect: faults.Redirect) -> str:
        """Return where a redirect leads."""
        ...


class FaultyServer:
    """Serves one site; start and stop it as often as you like, it keeps its port."""

    def __init__(
        self, site: Site, *, record: Record, fault_list: FaultList, port: int = 0, address: str = LOOPBACK
    ) -> None:
        self._site = site
        self._address = address
        self._record = record
        self._faults = fault_list
        self._port = port
        self._released = asyncio.Event()
        self._runner: web.ServerRunner | None = None

    @property
    def port(self) -> int:
        """The port; known once it was started."""
        return self._port

    @property
    def host(self) -> str:
        """``address:port``."""
        return f"{self._address}:{self._port}"

    @property
    def base_url(self) -> str:
        """The URL without a path or a slash at the end."""
        return f"http://{self.host}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; on the first time on any free port unless one was given."""
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_PATIENCE_SECONDS)
        await runner.setup()
        site = web.TCPSite(runner, self._address, self._port, reuse_address=True, backlog=1024)
        await site.start()
        self._runner = runner
        self._port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection; `start` listens on the same port again."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def release(self) -> None:
        """Let every request go on that a fault holds now."""
        self._released.set()
        self._released = asyncio.Event()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        recorded = self._site.recognise(request)
        if recorded is None:
            reply = await self._site.answer(request, None)
            return web.Response(status=reply.status, headers=reply.headers, body=read_all(reply.body))
        self._record.add(recorded)
        try:
            return await self._exchange(request, recorded)
        finally:
            recorded.finished, recorded.held = True, False
            self._record.notify()

    async def _exchange(self, request: web.BaseRequest, recorded: Recorded) -> web.StreamResponse:
        reply = await self._site.answer(request, recorded)
        exchange = Exchange(
            kind=recorded.kind,
            method=recorded.method,
            path=recorded.path,
            ranged=recorded.range is not None,
            succeeds=reply.is_content,
        )
        actions = self._faults.take(exchange)

        async def hold() -> None:
            recorded.held = True
            self._record.notify()
            await self._released.wait()
            recorded.held = False

        pace = actions.get(Family.PACE)
        if isinstance(pace, faults.Slow) and pace.before_headers_seconds:
            await asyncio.sleep(pace.before_headers_seconds)
        if Family.HOLD in actions:
            await hold()
        reply = self._replace(reply, recorded, actions)
        if reply.is_content:
            reply = spoil(reply, actions, request.headers)
        else:
            reply = spoil(reply, {}, {})
            actions = {}
        return await deliver(request, reply, recorded, actions, hold)

    def _replace(self, reply: Reply, recorded: Recorded, actions: Mapping[Family, Action]) -> Reply:
        match actions.get(Family.ANSWER):
            case faults.Status(body=None) as fault:
                refused = error_reply(fault.status, fault.code, "a fault that the test has set")
                refused.headers.update(fault.headers)
                return refused
            case faults.Status(body=bytes(body)) as fault:
                return Reply(status=fault.status, headers=CIMultiDict(fault.headers), body=body_of(body))
            case faults.RefuseHead(status=status):
                return Reply(status=status)
            case faults.Redirect() as redirect:
                location = self._site.locate(recorded, redirect)
                return Reply(status=redirect.status, headers=CIMultiDict({"Location": location}))
            case _:
                return reply
