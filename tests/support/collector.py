"""An OpenTelemetry collector: receives spans by OTLP over HTTP, and keeps them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.support.waiting import wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span as it was received; ids are in hex, as `traceparent` has them."""

    name: str
    role: str
    trace: str
    id: str
    parent: str
    facts: Mapping[str, object]
    error: str | None
    seconds: float
    resource: Mapping[str, object]


class Collector:
    """Listens on a free port of loopback while the block runs."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program send here, and soon."""
        port = self._server.server_address[1]
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}

    @property
    def spans(self) -> Sequence[Span]:
        """All that has come."""
        return tuple(self._spans)

    def about(self, name: str, repository: str) -> list[Span]:
        """Return the spans of a name about a repository that have come."""
        return [span for span in self.spans if (span.name, span.facts.get("mirror.repository")) == (name, repository)]

    def named(self, name: str, repository: str, count: int = 1) -> list[Span]:
        """Wait until there are so many spans of a name about a repository, and return them."""
        wait_until(lambda: len(self.about(name, repository)) >= count)
        return self.about(name, repository)

    def parts_of(self, whole: Span) -> list[Span]:
        """Return the spans whose parent is this one; those that end after it may come later."""
        return [span for span in self.spans if span.parent == whole.id]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        spans = self._spans

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                spans.extend(_read(ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Receiver


def _read(request: ExportTraceServiceRequest) -> list[Span]:
    return [
        Span(
            name=span.name,
            role=WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            facts=_facts(span.attributes),
            error=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            resource=_facts(of_one_process.resource.attributes),
        )
        for of_one_process in request.resource_spans
        for scope in of_one_process.scope_spans
        for span in scope.spans
    ]


def _facts(attributes: Sequence[KeyValue]) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}
