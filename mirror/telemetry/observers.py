"""Tell Prometheus' metrics and the page's tally of the same answers, so that their figures agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.http.cache_status import Outcome
    from mirror.oci.requests import Kind
    from mirror.telemetry.metrics import Metrics
    from mirror.telemetry.tally import Tally


class RequestObservers:
    """Two who count what clients were answered (`mirror.web.exchange.RequestObserver`)."""

    def __init__(self, metrics: Metrics, tally: Tally) -> None:
        """Take both."""
        self._metrics = metrics
        self._tally = tally

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
        """Requests were answered alike."""
        self._metrics.answered(
            upstream=upstream,
            kind=kind,
            outcome=outcome,
            code=code,
            size_bytes=size_bytes,
            first_byte_seconds=first_byte_seconds,
        )
        self._tally.answered(
            upstream=upstream,
            repository=repository,
            kind=kind,
            outcome=outcome,
            size_bytes=size_bytes,
            number=len(first_byte_seconds),
            failure=failure,
        )


class UpstreamObservers:
    """Two who count what is asked of upstreams (`mirror.ports.UpstreamObserver`)."""

    def __init__(self, metrics: Metrics, tally: Tally) -> None:
        """Take both."""
        self._metrics = metrics
        self._tally = tally
        self.upstream_answered = metrics.upstream_answered
        self.auth_failed = metrics.auth_failed

    def upstream_sent(self, upstream: str, kind: Kind, size_bytes: int) -> None:
        """Body bytes arrived."""
        self._metrics.upstream_sent(upstream, kind, size_bytes)
        self._tally.upstream_sent(kind, size_bytes)

    def upstream_up(self, upstream: str, *, is_up: bool) -> None:
        """It is known whether the upstream answers."""
        self._metrics.upstream_up(upstream, is_up=is_up)
        self._tally.upstream_up(upstream)

    def limit_seen(self, upstream: str, limit: int | None, remaining: int | None) -> None:
        """The upstream told its rate limit."""
        self._metrics.limit_seen(upstream, limit, remaining)
        self._tally.limit_seen(upstream)
