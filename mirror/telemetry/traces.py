"""OpenTelemetry traces, sent by OTLP over HTTP, where the standard ``OTEL_…`` environment variables ask for them.

Needs the extra ``mirror[traces]``. Nothing of it is imported before it is asked for.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from mirror import __version__
from mirror.ports import UNTRACED, Role, Span, Tracer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping, Sequence

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from mirror.ports.tracer import Facts

log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_LAST_SECONDS = 2.0  # for what is left at the end; a collector that is away would take ten


@asynccontextmanager
async def tracing(environ: Mapping[str, str]) -> AsyncIterator[Tracer]:
    """Yield what traces, where the environment asks for it; send what is left when the block ends. Once in a process.

    Spec: https://github.com/open-telemetry/opentelemetry-specification/blob/v1.40.0/specification/configuration/sdk-environment-variables.md
    """
    opened = await asyncio.to_thread(_open, environ) if _is_asked_for(environ) else None
    if opened is None:
        yield UNTRACED
        return
    provider, exporter = opened
    try:
        yield OpenTelemetryTracer(provider)
    finally:
        giving_up = asyncio.get_running_loop().call_later(_LAST_SECONDS, exporter.shutdown)
        await asyncio.to_thread(provider.shutdown)
        giving_up.cancel()


def _is_asked_for(environ: Mapping[str, str]) -> bool:
    """Tell whether there is somewhere to send to: most who set nothing have no collector, and want no attempts."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in _ENDPOINTS))


def _open(environ: Mapping[str, str]) -> tuple[TracerProvider, SpanExporter] | None:
    """Make what sends; None, and a warning, where it cannot be: a collector that is amiss stops no pull."""
    protocol = next((value for name in _PROTOCOLS if (value := environ.get(name))), _PROTOCOL)
    if protocol != _PROTOCOL:
        log.warning("traces.unavailable", error=f"the mirror sends traces by {_PROTOCOL}, not by {protocol}")
        return None
    try:
        return _provider()
    except ImportError:
        log.warning("traces.unavailable", error="install mirror[traces] to have them")
    except ValueError as error:  # what another variable says makes no sense
        log.warning("traces.unavailable", error=str(error))
    return None


def _provider() -> tuple[TracerProvider, SpanExporter]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    own: dict[str, str | int] = {"service.name": "mirror", "service.version": __version__, "process.pid": os.getpid()}
    resource = Resource({**own}).merge(OTELResourceDetector().detect())  # what the environment says goes before ours
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider, exporter


class _OpenTelemetrySpan:
    """A span of the library's (`mirror.ports.Span`)."""

    def __init__(self, span: Any, carrier: Any) -> None:  # noqa: ANN401 - of a library that may be absent
        self._span = span
        self._carrier = carrier

    def describe(self, facts: Facts, *, name: str | None = None) -> None:
        """Add what is known now."""
        self._span.set_attributes(_known(facts))
        if name is not None:
            self._span.update_name(name)

    def fail(self, reason: str) -> None:
        """Say that it failed."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - an extra

        self._span.set_status(StatusCode.ERROR, reason)

    def carry(self, headers: MutableMapping[str, str]) -> None:
        """Add `traceparent` and `tracestate`."""
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 - an extra

        self._carrier.inject(headers, context=set_span_in_context(self._span))


class OpenTelemetryTracer:
    """Makes spans of the library's (`mirror.ports.Tracer`); whether a trace is sampled is for the library to decide."""

    def __init__(self, provider: TracerProvider) -> None:
        """Take what spans are sent by."""
        from opentelemetry import context, trace  # noqa: PLC0415 - an extra
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._nowhere = context.Context()
        self._tracer = provider.get_tracer("mirror", __version__)
        self._carrier = TraceContextTextMapPropagator()
        self._kinds = {role: trace.SpanKind[role.name] for role in Role}

    @contextmanager
    def span(
        self, name: str, facts: Facts, *, role: Role = Role.INTERNAL, headers: Mapping[str, str] | None = None
    ) -> Iterator[Span]:
        """Trace a block."""
        context = None if headers is None else self._carrier.extract(headers, context=self._nowhere)
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=self._kinds[role],
            attributes=_known(facts),
            record_exception=False,  # what is raised here is an answer more often than a mistake
            set_status_on_exception=False,
        ) as span:
            yield _OpenTelemetrySpan(span, self._carrier)

    @contextmanager
    def part(self, name: str, facts: Facts) -> Iterator[Span]:
        """Trace a block where something is traced."""
        if self._trace.get_current_span() is self._trace.INVALID_SPAN:
            with UNTRACED.part(name, facts) as nothing:
                yield nothing
            return
        with self.span(name, facts) as span:
            yield span

    def ended(self, name: str, each: Sequence[tuple[float, Facts]], *, role: Role = Role.INTERNAL) -> None:
        """Trace what has just ended; it is a part of nothing."""
        now = time.time_ns()
        for seconds, facts in each:
            span = self._tracer.start_span(
                name,
                context=self._nowhere,
                kind=self._kinds[role],
                attributes=_known(facts),
                start_time=now - int(seconds * 1e9),
            )
            span.end(end_time=now)


def _known(facts: Facts) -> dict[str, str | int | float]:
    return {name: value for name, value in facts.items() if value is not None}
