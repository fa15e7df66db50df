"""One request and its answer: what both the log line and the metric sample are made of."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from mirror.oci.requests import Kind

if TYPE_CHECKING:
    from aiohttp import web

    from mirror.http.cache_status import Outcome

log = structlog.get_logger(__name__)


class RequestObserver(Protocol):
    """Counts answers."""

    def answered(
        self,
        *,
        upstream: str | None,
        kind: Kind,
        outcome: Outcome | None,
        code: int,
        size_bytes: int,
        first_byte_seconds: float,
    ) -> None:
        """One request was answered."""
        ...


@dataclass(slots=True)
class Exchange:
    """Gathers the facts of one request while it is handled."""

    request: web.BaseRequest
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    started: float = field(default_factory=time.perf_counter)
    kind: Kind = Kind.OTHER
    upstream: str | None = None
    repository: str | None = None
    reference: str | None = None
    outcome: Outcome | None = None
    status: int = 0
    bytes_sent: int = 0
    error: str | None = None
    first_byte_seconds: float | None = None

    def headers_sent(self, status: int) -> None:
        """Note that the answer begins now."""
        self.status = status
        self.first_byte_seconds = time.perf_counter() - self.started

    def finish(self, observer: RequestObserver) -> None:
        """Write the one log line, and count."""
        duration_seconds = time.perf_counter() - self.started
        observer.answered(
            upstream=self.upstream,
            kind=self.kind,
            outcome=self.outcome,
            code=self.status,
            size_bytes=self.bytes_sent,
            first_byte_seconds=duration_seconds if self.first_byte_seconds is None else self.first_byte_seconds,
        )
        facts = {
            "request_id": self.request_id,
            "client": self.request.remote,
            "method": self.request.method,
            "upstream": self.upstream,
            "repository": self.repository,
            "reference": self.reference,
            "kind": self.kind.value,
            "outcome": None if self.outcome is None else self.outcome.value,
            "status": self.status,
            "bytes_sent": self.bytes_sent,
            "duration_seconds": round(duration_seconds, 6),
            "error": self.error,
        }
        log.info("request.served", **{name: value for name, value in facts.items() if value is not None})
