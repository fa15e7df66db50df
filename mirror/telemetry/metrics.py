"""All metrics. Names, labels and meanings are fixed in docs/metrics.md; label values come from the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from mirror import __version__
from mirror.http.cache_status import Outcome
from mirror.oci.requests import Kind
from mirror.policy import EvictionReason

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from mirror.ports import Totals

NO_UPSTREAM = "none"  # a request that is about no upstream: a ping, the catalog
_FIRST_BYTE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PROXY_KINDS = frozenset({Kind.BLOB, Kind.MANIFEST})
_NOT_A_PULL = frozenset({Outcome.NEGATIVE, Outcome.BYPASS})
_FROM_UPSTREAM = frozenset({Outcome.MISS, Outcome.COALESCED})


class Metrics:
    """Counts requests, downloads and what is asked of upstreams (`mirror.ports` has the interfaces)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register every metric."""
        self.registry = registry
        requests = ("upstream", "kind", "outcome")
        self._requests = Counter("mirror_requests_total", "Requests answered.", (*requests, "code"), registry=registry)
        self._response_bytes = Counter(
            "mirror_response_bytes_total", "Body bytes sent to clients.", requests, registry=registry
        )
        self._first_byte = Histogram(
            "mirror_time_to_first_byte_seconds",
            "From a request's arrival to the first byte of its answer.",
            requests,
            buckets=_FIRST_BYTE_BUCKETS,
            registry=registry,
        )
        self._upstream_requests = Counter(
            "mirror_upstream_requests_total",
            "Requests sent to upstreams; code is error where no answer came.",
            ("upstream", "kind", "method", "code"),
            registry=registry,
        )
        self._upstream_bytes = Counter(
            "mirror_upstream_bytes_total", "Body bytes from upstreams.", ("upstream", "kind"), registry=registry
        )
        self._upstream_seconds = Histogram(
            "mirror_upstream_request_seconds",
            "From a request to an upstream to the head of its answer.",
            ("upstream", "kind"),
            registry=registry,
        )
        self._upstream_up = Gauge(
            "mirror_upstream_up",
            "Whether the upstream answers, by any of its endpoints.",
            ("upstream",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._limit = Gauge(
            "mirror_upstream_ratelimit_limit",
            "The upstream's rate limit, in requests, as it last said.",
            ("upstream",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._remaining = Gauge(
            "mirror_upstream_ratelimit_remaining",
            "What is left of the upstream's rate limit, as it last said.",
            ("upstream",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._auth_failures = Counter(
            "mirror_upstream_auth_failures_total", "Stored credentials refused.", ("upstream",), registry=registry
        )
        self._fills = Gauge(
            "mirror_fills_in_progress", "Downloads running.", registry=registry, multiprocess_mode="livesum"
        )
        self._resumes = Counter(
            "mirror_fill_resumes_total", "Broken transfers that went on.", ("upstream",), registry=registry
        )
        self._mismatches = Counter(
            "mirror_digest_mismatches_total",
            "Blobs that did not match their digest.",
            ("upstream",),
            registry=registry,
        )
        self._unstored = Counter(
            "mirror_fills_unstored_total", "Downloads that there was no room to store.", registry=registry
        )
        self._damaged = Counter(
            "mirror_blobs_damaged_total", "Stored files found damaged, and removed.", registry=registry
        )
        self._evictions = Counter(
            "mirror_evictions_total", "Stored blobs and manifests removed.", ("reason",), registry=registry
        )
        self._evicted_bytes = Counter("mirror_evicted_bytes_total", "Their bytes.", ("reason",), registry=registry)
        build = Gauge(
            "mirror_build_info", "The version that runs.", ("version",), registry=registry, multiprocess_mode="max"
        )
        build.labels(__version__).set(1)
        Gauge("mirror_workers", "Processes that serve.", registry=registry, multiprocess_mode="livesum").set(1)
        self._proxy = _ProxyMetrics(registry)
        self._received: dict[tuple[str, Kind], Sequence[Counter]] = {}
        self._answers: dict[tuple[str | None, Kind, Outcome | None, int], _AnswerCounters] = {}
        for reason in EvictionReason:
            self.evicted(reason, 0, 0)

    def begin(self, upstreams: Iterable[str]) -> None:
        """Start the metrics of configured upstreams at 0, where they are not there."""
        for upstream in upstreams:
            self._auth_failures.labels(upstream)
            self._resumes.labels(upstream)
            self._mismatches.labels(upstream)

    def answered(
        self,
        *,
        upstream: str | None,
        kind: Kind,
        outcome: Outcome | None,
        code: int,
        size_bytes: int,
        first_byte_seconds: Sequence[float],
    ) -> None:
        """Requests were answered alike, each with ``size_bytes``; one for each of ``first_byte_seconds``.

        ``outcome`` is None for errors and for what has nothing to do with the cache.
        """
        key = (upstream, kind, outcome, code)
        counters = self._answers.get(key)
        if counters is None:
            counters = self._answers[key] = self._counters_of(*key)
        number = len(first_byte_seconds)
        counters.requests.inc(number)
        counters.response_bytes.inc(size_bytes * number)
        for seconds in first_byte_seconds:
            counters.first_byte.observe(seconds)
        if counters.proxy is not None:
            counters.proxy.answered(size_bytes, number)

    def _counters_of(self, upstream: str | None, kind: Kind, outcome: Outcome | None, code: int) -> _AnswerCounters:
        """Find what one kind of answer counts in, which costs more than the counting; few kinds of answers exist."""
        labels = (upstream or NO_UPSTREAM, kind.value, "none" if outcome is None else outcome.value)
        proxy = None
        if kind in _PROXY_KINDS and outcome is not None and outcome not in _NOT_A_PULL:
            proxy = self._proxy.counters_of(kind, is_hit=outcome not in _FROM_UPSTREAM)
        return _AnswerCounters(
            requests=self._requests.labels(*labels, str(code)),
            response_bytes=self._response_bytes.labels(*labels),
            first_byte=self._first_byte.labels(*labels),
            proxy=proxy,
        )

    def upstream_answered(self, upstream: str, kind: Kind, method: str, code: str, seconds: float) -> None:
        """One request was answered, or failed (``code`` is then ``error``)."""
        self._upstream_requests.labels(upstream, kind.value, method, code).inc()
        self._upstream_seconds.labels(upstream, kind.value).observe(seconds)

    def upstream_up(self, upstream: str, *, is_up: bool) -> None:
        """It is known whether the upstream answers."""
        self._upstream_up.labels(upstream).set(int(is_up))

    def upstream_sent(self, upstream: str, kind: Kind, size_bytes: int) -> None:
        """Body bytes arrived."""
        counters = self._received.get((upstream, kind))
        if counters is None:
            counters = self._received[upstream, kind] = self._received_counters_of(upstream, kind)
        for counter in counters:
            counter.inc(size_bytes)

    def _received_counters_of(self, upstream: str, kind: Kind) -> Sequence[Counter]:
        """Find where bytes are counted, which costs more than the counting."""
        own = self._upstream_bytes.labels(upstream, kind.value)
        return (own, self._proxy.pulled_of(kind)) if kind in _PROXY_KINDS else (own,)

    def auth_failed(self, upstream: str) -> None:
        """A stored credential was refused."""
        self._auth_failures.labels(upstream).inc()

    def limit_seen(self, upstream: str, limit: int | None, remaining: int | None) -> None:
        """The upstream told its rate limit."""
        if limit is not None:
            self._limit.labels(upstream).set(limit)
        if remaining is not None:
            self._remaining.labels(upstream).set(remaining)

    def fill_started(self) -> None:
        """One more download in progress."""
        self._fills.inc()

    def fill_ended(self) -> None:
        """One fewer in progress."""
        self._fills.dec()

    def fill_unstored(self) -> None:
        """There was no room for a download: it goes to its clients, and is not stored."""
        self._unstored.inc()

    def fill_resumed(self, upstream: str) -> None:
        """A broken transfer went on where it stopped."""
        self._resumes.labels(upstream).inc()

    def digest_mismatched(self, upstream: str) -> None:
        """An upstream sent bytes that are not what was asked for."""
        self._mismatches.labels(upstream).inc()

    def blob_damaged(self) -> None:
        """A stored blob was not what it should be, and was removed."""
        self._damaged.inc()

    def evicted(self, reason: str, objects: int, size_bytes: int) -> None:
        """So many objects of this size were removed."""
        self._evictions.labels(reason).inc(objects)
        self._evicted_bytes.labels(reason).inc(size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _AnswerCounters:
    """Where answers of one upstream, kind, outcome and code are counted."""

    requests: Counter
    response_bytes: Counter
    first_byte: Histogram
    proxy: _ProxyCounters | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProxyCounters:
    """The same for distribution's names."""

    requests: Counter
    outcome: Counter
    pushed: Counter

    def answered(self, size_bytes: int, number: int) -> None:
        self.requests.inc(number)
        self.outcome.inc(number)
        self.pushed.inc(size_bytes * number)


class _ProxyMetrics:
    """The five names of distribution's proxy, with its meaning, for dashboards that were made for it.

    Source: https://github.com/distribution/distribution/blob/v3.0.0/registry/proxy/proxymetrics.go
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            made = Counter(f"registry_proxy_{name}_total", text, ("type",), registry=registry)
            for kind in sorted(_PROXY_KINDS):
                made.labels(kind.value)
            return made

        self._requests = counter("requests", "Requests for proxied content.")
        self._hits = counter("hits", "Requests answered from the cache.")
        self._misses = counter("misses", "Requests that had to be fetched.")
        self._pulled = counter("pulled_bytes", "Bytes fetched from upstreams.")
        self._pushed = counter("pushed_bytes", "Bytes sent to clients.")

    def counters_of(self, kind: Kind, *, is_hit: bool) -> _ProxyCounters:
        return _ProxyCounters(
            requests=self._requests.labels(kind.value),
            outcome=(self._hits if is_hit else self._misses).labels(kind.value),
            pushed=self._pushed.labels(kind.value),
        )

    def pulled_of(self, kind: Kind) -> Counter:
        return self._pulled.labels(kind.value)


class _CacheTotals(Collector):
    """What the cache holds, as the index counted it when the scrape began."""

    def __init__(self, totals: Totals, limit_bytes: int) -> None:
        self._totals = totals
        self._limit_bytes = limit_bytes

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("mirror_cache_bytes", "Bytes of stored blobs and manifests.", self._totals.size_bytes)
        yield GaugeMetricFamily(
            "mirror_cache_limit_bytes", "What they are kept below (cache.max_size); 0: unbounded.", self._limit_bytes
        )
        objects = GaugeMetricFamily("mirror_cache_objects", "Stored blobs and manifests.", labels=("kind",))
        for kind, number in self._totals.objects.items():
            objects.add_metric((kind.value,), number)
        yield objects


def render(registry: CollectorRegistry, *, shared_folder: str | None, totals: Totals, limit_bytes: int) -> bytes:
    """Write the text format: this process's metrics, or with ``shared_folder`` those of all workers."""
    scrape = CollectorRegistry()
    if shared_folder is not None:
        MultiProcessCollector(scrape, path=shared_folder)  # type: ignore[no-untyped-call]
    scrape.register(_CacheTotals(totals, limit_bytes))
    own = b"" if shared_folder is not None else generate_latest(registry)
    return own + generate_latest(scrape)
