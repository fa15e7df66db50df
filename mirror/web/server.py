"""The aiohttp server: one handler for every path, and errors in the protocol's own form down to the parser's.

The low-level server, not `web.Application`: a registry's paths are read from their right-hand end and from raw text,
which its router cannot do, and a hit pays for no middleware.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
from aiohttp import EMPTY_PAYLOAD, web

from mirror.concurrency.request_id import request_id
from mirror.engine.answers import Remembered
from mirror.errors import MirrorError, NameUnknown, Unsupported
from mirror.http.cache_status import Outcome
from mirror.http.networks import UNIX
from mirror.oci.error_codes import ErrorCode, error_body
from mirror.ports import UNTRACED
from mirror.web import errors
from mirror.web.admin import ADMIN_PREFIX
from mirror.web.exchange import CLIENT_LEFT, Exchange
from mirror.web.headers import API_VERSION
from mirror.web.ops import OPS_PATHS, PROBES
from mirror.web.routes import read_target
from mirror.web.tracing import traced

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from contextlib import AbstractContextManager

    from mirror.ports import Tracer
    from mirror.web.admin import AdminHandler
    from mirror.web.clients import Client
    from mirror.web.entrance import Entrance
    from mirror.web.exchange import RequestObserver
    from mirror.web.hot import HotRequests
    from mirror.web.ops import OpsHandlers
    from mirror.web.pull import PullHandlers
    from mirror.web.routes import Target

log = structlog.get_logger(__name__)

_READING = frozenset({"GET", "HEAD"})
_CLIENT_LEFT = 499  # nginx's, in the log and the metrics: nothing was sent
_HEAD_END = b"\r\n\r\n"
_READ_AT_ONCE_BYTES = 16 * 1024  # asyncio makes room for 256 KiB at each read, of which a request takes 500 bytes
_LOOKED_AFTER_SECONDS = 1.0
_TOO_MANY_SECONDS = 1.0  # for the request of a connection too many, which is only going to be refused
_WRITING = "this is a pull-through mirror: it answers GET and HEAD only; push to the registry itself"


class Handler:
    """Answers every request, and notes what became of it."""

    def __init__(
        self,
        pull: PullHandlers | None,
        ops: OpsHandlers,
        entrance: Entrance,
        hot: HotRequests,
        observer: RequestObserver,
        *,
        ops_paths: AbstractSet[str] = OPS_PATHS,
        admin: AdminHandler | None = None,
        tracer: Tracer = UNTRACED,
    ) -> None:
        """Join the parts; without ``pull`` there is no registry here, only what ``ops`` answers at ``ops_paths``.

        Without ``admin`` nothing can be changed.
        """
        self._admin = admin
        self._pull = pull
        self._ops = ops
        self.hot = hot
        self._observer = observer
        self._ops_paths = ops_paths
        self.entrance = entrance
        self._tracer = tracer

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; errors become the protocol's JSON."""
        client = self.entrance.clients.of(request)
        exchange = Exchange(request.method, client.address)
        request_id.set(exchange.request_id)
        if self._tracer is UNTRACED:
            return await self._finish(request, exchange, client)
        with traced(self._tracer, request, exchange):
            return await self._finish(request, exchange, client)

    async def _finish(self, request: web.BaseRequest, exchange: Exchange, client: Client) -> web.StreamResponse:
        try:
            response = await self._answer(request, exchange, client)
        except (ConnectionError, asyncio.CancelledError):
            exchange.error = exchange.error or CLIENT_LEFT
            exchange.status = exchange.status or _CLIENT_LEFT
            exchange.finish(self._observer)
            raise
        if not response.prepared:
            exchange.headers_sent(response.status)
        exchange.finish(self._observer)
        if isinstance(request.protocol, Connection):
            self.hot.learn(request.protocol.only_request, request, exchange)
            if request.protocol.is_too_many:
                response.force_close()
            request.protocol.request_answered()
        return response

    async def _answer(self, request: web.BaseRequest, exchange: Exchange, client: Client) -> web.StreamResponse:
        try:
            # who looks after us is answered, whatever else is going on
            if request.raw_path.partition("?")[0] in PROBES:
                return await self._dispatch(request, exchange, read_target(request.raw_path))
            with self._share(request, client):
                if request.raw_path.startswith(ADMIN_PREFIX):  # let in by its own token, not by the gate
                    return await self._answer_admin(request, exchange, client)
                if self.entrance.gate is not None:
                    exchange.admission = await self.entrance.gate.admit(request.headers.get("Authorization"), client)
                return await self._dispatch(request, exchange, read_target(request.raw_path))
        except MirrorError as error:
            return _error_response(exchange, error)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("request.failed", request_id=exchange.request_id)
            return _error_response(exchange, MirrorError("the mirror failed; its log says why"), error)

    async def _answer_admin(self, request: web.BaseRequest, exchange: Exchange, client: Client) -> web.StreamResponse:
        if self._admin is None:
            raise NameUnknown("nothing can be changed over the network here: access.admin_token_file is not set")
        response = await self._admin.answer(request, client)
        if response.prepared:
            exchange.headers_sent(response.status)
        return response

    def _share(self, request: web.BaseRequest, client: Client) -> AbstractContextManager[None]:
        """Return what a request is answered within, so that no address has more than its share.

        Raises:
            TooManyRequests: it has, here or when the block is entered.
        """
        if client.is_forwarded:
            return self.entrance.in_flight.request(client.address)
        if isinstance(request.protocol, Connection):
            request.protocol.check_share()
        return nullcontext()

    async def _dispatch(self, request: web.BaseRequest, exchange: Exchange, target: Target) -> web.StreamResponse:
        if request.method not in _READING:
            raise Unsupported(_WRITING)
        if target.path in self._ops_paths:
            return await self._ops.answer(target.path)
        if self._pull is None:
            raise NameUnknown("this address is for who watches the mirror; images are pulled from another")
        match target.path:
            case "/v1/_ping":
                return self._pull.ping_v1(exchange)
            case "/v1/search":
                return await self._pull.search(request, exchange, target)
            case _:
                return await self._pull.handle(request, exchange, target)


def _error_response(exchange: Exchange, error: MirrorError, cause: Exception | None = None) -> web.Response:
    exchange.error = str(error)
    if exchange.status:  # the status line is gone: a body that ends short is the only way to say so
        raise ConnectionResetError("the body was cut short") from cause or error
    status, _ = errors.describe(error)
    if isinstance(error, Remembered):
        exchange.outcome = Outcome.NEGATIVE
    headers = {"Cache-Status": "mirror", "X-Request-Id": exchange.request_id, **API_VERSION, **errors.headers(error)}
    return web.Response(status=status, body=errors.body(error), content_type="application/json", headers=headers)


class Connection(web.RequestHandler):
    """aiohttp's connection, before which hot requests are answered; its own errors are in JSON like all others.

    ``only_request`` is all that was received since the connection was last between two requests, where that was one
    whole request without a body. ``is_too_many`` is whether its address had enough connections when it came.
    """

    __slots__ = (
        "_client",
        "_entrance",
        "_hot",
        "_is_between_requests",
        "_is_counted",
        "_is_retiring",
        "_waiting_since",
        "is_too_many",
        "only_request",
    )

    def __init__(self, hot: HotRequests, entrance: Entrance, server: web.Server, **settings: Any) -> None:  # noqa: ANN401 - aiohttp's
        """Take what answers hot requests, what is met first, and aiohttp's settings."""
        super().__init__(server, **settings)
        self._hot = hot
        self._entrance = entrance
        self._client: str | None = None  # also where each request may have another
        self._is_between_requests = True
        self._is_retiring = False
        self._waiting_since: float | None = self._loop.time()
        self._is_counted = False
        self.is_too_many = False
        self.only_request: bytes | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember who it is, unless it is a proxy, whose requests are others'."""
        super().connection_made(transport)
        if hasattr(transport, "max_size"):  # TLS has buffers of its own (`web.site`)
            transport.max_size = _READ_AT_ONCE_BYTES
        peer = self._entrance.clients.peer(self.peername[0] if isinstance(self.peername, tuple) else self.peername)
        self._client = None if self._entrance.clients.is_proxy(peer) else peer
        if self._client is not None and self._client != UNIX:
            self._entrance.in_flight.enter(self._client)
            self._is_counted = True
            self.is_too_many = self._entrance.in_flight.exceeds(self._client)
            self._is_between_requests = not self.is_too_many  # so that what it asks for goes the whole way

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it no longer."""
        super().connection_lost(exc)
        if self._client is not None and self._is_counted:
            self._is_counted = False
            self._entrance.in_flight.leave(self._client)

    def check_share(self) -> None:
        """Refuse what comes on a connection that was one too many, while its address still has too many.

        Raises:
            TooManyRequests: it has.
        """
        if self.is_too_many and self._client is not None:
            self._entrance.in_flight.check(self._client)
            self.is_too_many = False

    def data_received(self, data: bytes) -> None:
        """Answer a hot request at once, while nothing else is under way; let aiohttp have everything else."""
        transport, client = self.transport, self._client
        if (
            transport is not None
            and client is not None
            and self._is_between_requests
            and self._is_waiting()
            and self._hot.answer(data, client=client, write=transport.write)
        ):
            self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
            self._waiting_since = None
            return
        before, is_idle = self._request_count, self._is_waiting()
        super().data_received(data)
        self._is_between_requests = self._is_between_requests and self._was_one_request(data, before)
        # who is idle has nothing under way: what is learned from it next is about this request, and no earlier one
        is_only = is_idle and self._is_between_requests and client is not None
        self.only_request = data if is_only else None
        self._note_waiting(data)

    def _note_waiting(self, data: bytes) -> None:
        """Note since when a head is incomplete: the first one, or one that has begun behind another."""
        waiter = self._waiter
        is_incomplete = waiter is not None and not waiter.done()
        ends_a_head = data.endswith(_HEAD_END) or (waiter is not None and _HEAD_END.endswith(data))
        if not is_incomplete:
            self._waiting_since = None if ends_a_head else self._loop.time()
        elif self._waiting_since is None:
            self._waiting_since = self._loop.time()

    def end_if_late(self, limit_seconds: float) -> None:
        """Close when the rest of a head, or the first one, has been waited for longer than that."""
        if self._waiting_since is not None and self._waiter is not None and not self._waiter.done():
            waited_seconds = self._loop.time() - self._waiting_since
            limit_seconds = min(limit_seconds, _TOO_MANY_SECONDS) if self.is_too_many else limit_seconds
            if waited_seconds > limit_seconds:
                log.debug("connection.late", client=self._client, waited_seconds=round(waited_seconds, 1))
                self.force_close()

    def retire(self) -> None:
        """Close where no request is under way; otherwise once the one that is, or the first one, has its answer."""
        self._is_retiring = True
        self._client = None  # no hot request is answered any more
        if self._waiting_since is None and self._is_waiting():
            self.force_close()

    def request_answered(self) -> None:
        """Take note that a request has its answer."""
        if self._is_retiring:
            self.close()

    def _is_waiting(self) -> bool:
        """Tell whether the last answer has left, and another may be given."""
        waiter = self._waiter
        return waiter is not None and not waiter.done() and not (self._close or self._force_close or self._paused)

    def _was_one_request(self, data: bytes, before: int) -> bool:
        """Tell whether the parser, which was between two requests, is so again after one without a body."""
        if self._request_count != before + 1 or not data.endswith(b"\r\n\r\n") or self._upgraded:
            return False
        _, payload = self._messages[-1]
        return payload is EMPTY_PAYLOAD

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """Answer what the parser refused, and close."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionResetError("the answer was cut short")
        refused, reason = errors.refusal(exc)
        status = refused.value if status == HTTPStatus.BAD_REQUEST else status
        log.info(
            "request.refused",
            client=self._entrance.clients.of(request).address,
            status=status,
            error=type(exc).__name__,
        )
        response = web.Response(
            status=status,
            body=error_body(ErrorCode.UNSUPPORTED, reason),
            content_type="application/json",
            headers=API_VERSION,
        )
        response.force_close()
        return response


class HttpServer(web.Server):
    """aiohttp's server with our connections."""

    def __init__(self, handler: Handler) -> None:
        """Take the handler of all requests."""
        self._hot = handler.hot
        self._entrance = handler.entrance
        limits: dict[str, Any] = {
            "max_line_size": errors.LINE_LIMIT_BYTES,
            "max_field_size": errors.FIELD_LIMIT_BYTES,
            "max_headers": errors.FIELDS_LIMIT,
        }
        super().__init__(handler, handler_cancellation=True, access_log=None, **limits)

    def retire(self) -> None:
        """Let each connection go that is doing nothing, and the others once they have done what they do."""
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.retire()

    async def end_late_connections(self, limit_seconds: float) -> NoReturn:
        """Close, for ever, connections on which no request gets complete in time."""
        while True:
            await asyncio.sleep(min(_LOOKED_AFTER_SECONDS, limit_seconds / 2))
            for connection in self.connections:
                if isinstance(connection, Connection):
                    connection.end_if_late(limit_seconds)

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return Connection(self._hot, self._entrance, self, loop=asyncio.get_running_loop(), **self._kwargs)
