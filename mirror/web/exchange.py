"""One request and its answer: what both the log line and the metric sample are made of."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quote
from typing import TYPE_CHECKING, Protocol

import structlog

from mirror.oci.requests import BlobRequest, Kind, ManifestRequest, ReferrersRequest
from mirror.telemetry.logs import render_members, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.http.cache_status import Outcome
    from mirror.web.gate import Pass
    from mirror.web.routes import Route

log = structlog.get_logger(__name__)

CLIENT_LEFT = "the client left"
_FIRST_ERROR = 400
_FIRST_FAILURE = 500


class RequestObserver(Protocol):
    """Counts answers."""

    def answered(
        self,
        *,
        upstream: str | None,
        repository: str | None,
        kind: Kind,
        outcome: Outcome | None,
        code: int,
        size_bytes: int,
        first_byte_seconds: Sequence[float],
        failure: str | None,
    ) -> None:
        """Requests were answered alike, each with ``size_bytes``; one for each of ``first_byte_seconds``.

        ``failure`` says what was wrong where a client did not get what it should have.
        """
        ...


def new_request_id() -> str:
    """Make up a name for a request, which is no secret."""
    return f"{random.getrandbits(64):016x}"


@dataclass(slots=True)
class Exchange:
    """Gathers the facts of one request while it is handled."""

    method: str
    client: str | None
    request_id: str = field(default_factory=new_request_id)
    started: float = field(default_factory=time.perf_counter)
    admission: Pass | None = None
    route: Route | None = None
    kind: Kind = Kind.OTHER
    upstream: str | None = None
    repository: str | None = None
    reference: str | None = None
    outcome: Outcome | None = None
    status: int = 0
    bytes_sent: int = 0
    error: str | None = None
    first_byte_seconds: float | None = None

    def set_route(self, route: Route) -> None:
        """Note what is asked for."""
        self.route, self.kind = route, route.request.kind
        if route.upstream is not None and route.repository is not None:
            self.upstream, self.repository = route.upstream.name, route.repository.name
        match route.request:
            case ManifestRequest(reference=reference):
                self.reference = str(reference)
            case BlobRequest(digest=digest) | ReferrersRequest(digest=digest):
                self.reference = str(digest)
            case _:
                pass

    def headers_sent(self, status: int) -> None:
        """Note that the answer begins now."""
        self.status = status
        self.first_byte_seconds = time.perf_counter() - self.started

    @property
    def failure(self) -> str | None:
        """What the mirror or its upstream did wrong, in words; None where the client did, or left."""
        if self.error is None or self.error == CLIENT_LEFT or _FIRST_ERROR <= self.status < _FIRST_FAILURE:
            return None
        return self.error

    def finish(self, observer: RequestObserver) -> None:
        """Write the one log line, and count."""
        duration_seconds = time.perf_counter() - self.started
        observer.answered(
            upstream=self.upstream,
            repository=self.repository,
            kind=self.kind,
            outcome=self.outcome,
            code=self.status,
            size_bytes=self.bytes_sent,
            first_byte_seconds=[duration_seconds if self.first_byte_seconds is None else self.first_byte_seconds],
            failure=self.failure,
        )
        facts = {
            "request_id": self.request_id,
            "client": self.client,
            "method": self.method,
            **self.what_was_answered(),
            "duration_seconds": round(duration_seconds, 6),
            "error": self.error,
        }
        facts = {name: value for name, value in facts.items() if value is not None}
        if not write_json("request.served", render_members(facts)):
            log.info("request.served", **facts)

    def what_was_answered(self) -> dict[str, str | int | None]:
        """Return the facts that the same request has again when it is answered in the same way."""
        return {
            "user": None if self.admission is None else self.admission.user,
            "upstream": self.upstream,
            "repository": self.repository,
            "reference": self.reference,
            "kind": self.kind.value,
            "outcome": None if self.outcome is None else self.outcome.value,
            "status": self.status,
            "bytes_sent": self.bytes_sent,
        }


class RepeatedExchange:
    """Finishes many exchanges that differ from one in nothing but request id, client and time, for a fraction each."""

    def __init__(self, like: Exchange, observer: RequestObserver) -> None:
        """Take one of them, with everything noted that they have in common."""
        self._like = like
        self._observer = observer
        facts = {"method": like.method, **like.what_was_answered()}
        self._facts = {name: value for name, value in facts.items() if value is not None}
        self._members = render_members(self._facts)
        self._waiting: list[tuple[str, str, float]] = []

    def add(self, request_id: str, client: str, duration_seconds: float) -> bool:
        """Take note of one, whose first byte was its last; return whether it is the first since ``finish``."""
        self._waiting.append((request_id, client, duration_seconds))
        return len(self._waiting) == 1

    def finish(self) -> None:
        """Count those that were added, and write their log lines."""
        waiting, self._waiting = self._waiting, []
        like, in_common = self._like, self._members
        self._observer.answered(
            upstream=like.upstream,
            repository=like.repository,
            kind=like.kind,
            outcome=like.outcome,
            code=like.status,
            size_bytes=like.bytes_sent,
            first_byte_seconds=[seconds for _, _, seconds in waiting],
            failure=None,
        )
        members = [
            f'"request_id": "{request_id}", "client": {quote(client)}, "duration_seconds": {seconds:.6f}, {in_common}'
            for request_id, client, seconds in waiting
        ]
        if write_json("request.served", *members):
            return
        for request_id, client, seconds in waiting:
            facts = {"request_id": request_id, "client": client, "duration_seconds": round(seconds, 6)}
            log.info("request.served", **facts, **self._facts)
