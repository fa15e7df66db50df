"""A span for each request of a client, that of a hot one made when it has been answered."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from mirror.ports import Role
from mirror.web.exchange import RepeatedExchange
from mirror.web.ops import OPS_PATHS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

    from mirror.ports import Tracer
    from mirror.ports.tracer import Facts
    from mirror.web.exchange import Exchange, RequestObserver


@contextmanager
def traced(tracer: Tracer, request: web.BaseRequest, exchange: Exchange) -> Iterator[None]:
    """Trace a request, unless it is of those that look after the mirror and would bury all others."""
    if request.raw_path.partition("?")[0] in OPS_PATHS:
        yield
        return
    facts = {"http.request.method": exchange.method, "client.address": exchange.client}
    headers = {name.lower(): value for name, value in request.headers.items()}
    with tracer.span(exchange.method, facts, role=Role.SERVER, headers=headers) as span:
        try:
            yield
        finally:
            span.describe(_what_was_answered(exchange, exchange.request_id), name=_name(exchange))
            if exchange.failure is not None:
                span.fail(exchange.failure)


class TracedRepeatedExchange(RepeatedExchange):
    """Finishes hot requests, and traces each of them."""

    def __init__(self, like: Exchange, observer: RequestObserver, tracer: Tracer) -> None:
        """Take what they have in common."""
        super().__init__(like, observer)
        self._tracer = tracer

    def finish(self) -> None:
        """Trace those that were added, count them and write their log lines."""
        facts = _what_was_answered(self._like, None)
        facts = {"http.request.method": self._like.method, **facts}
        each = [
            (seconds, {**facts, "client.address": client, "mirror.request_id": request_id})
            for request_id, client, seconds in self._waiting
        ]
        super().finish()
        self._tracer.ended(_name(self._like), each, role=Role.SERVER)


def _name(exchange: Exchange) -> str:
    """Name a span by nothing that a client can make up, as its name is what is counted by."""
    return f"{exchange.method} {exchange.kind.value}" if exchange.method in {"GET", "HEAD"} else "request"


def _what_was_answered(exchange: Exchange, request_id: str | None) -> Facts:
    return {
        "http.response.status_code": exchange.status,
        "mirror.request_id": request_id,
        "mirror.upstream": exchange.upstream,
        "mirror.repository": exchange.repository,
        "mirror.reference": exchange.reference,
        "mirror.kind": exchange.kind.value,
        "mirror.outcome": None if exchange.outcome is None else exchange.outcome.value,
        "mirror.bytes_sent": exchange.bytes_sent,
        "mirror.error": exchange.error,
    }
