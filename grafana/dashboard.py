"""The dashboard: ``make dashboard`` puts what this writes into grafana/dashboards/mirror.json.

A panel is a title, what it shows in words, and queries with their legends; the rest is the same for all of its kind.
The metrics are described in docs/metrics.md.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from grafana.layout import Panel, Query, Row, dashboard

_MIRROR = 'job=~"$job", instance=~"$instance"'
_UPSTREAM = f'{_MIRROR}, upstream=~"$upstream"'
_PULLS = f'{_UPSTREAM}, kind=~"manifest|blob"'
_STORED = 'outcome=~"hit|revalidated|stale"'
_CACHEABLE = 'outcome=~"hit|revalidated|stale|miss|coalesced"'
_RATE = "[$__rate_interval]"
_RANGE = "[$__range]"

_GREEN_IS_HIGH = [("red", None), ("orange", 0.3), ("green", 0.6)]
_GREEN_IS_ZERO = [("green", None), ("red", 1)]
_RED_IS_LOW = [("red", None), ("orange", 0.1), ("green", 0.3)]


# --- expressions ---


def total(metric: str, labels: str, window: str, *, by: str = "") -> str:
    """Return the rate of a counter, or over the shown range its increase, summed."""
    function = "increase" if window == _RANGE else "rate"
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} ({function}({metric}{{{labels}}}{window}))"


def share(metric: str, part: str, whole: str, window: str, *, by: str = "") -> str:
    """Return a counter's part of a whole, from 0 to 1; nothing where the whole is nothing."""
    grouped = f" or {total(metric, whole, window, by=by)} * 0" if by else " or vector(0)"
    return f"({total(metric, part, window, by=by)}{grouped}) / ({total(metric, whole, window, by=by)} > 0)"


def hit_rate(metric: str, window: str) -> str:
    """Return which part of what was cacheable was answered from the store."""
    return share(metric, f"{_PULLS}, {_STORED}", f"{_PULLS}, {_CACHEABLE}", window)


def saved(window: str) -> str:
    """Return the bytes that clients got and no upstream had to send."""
    sent = total("mirror_response_bytes_total", _PULLS, window)
    fetched = total("mirror_upstream_bytes_total", _PULLS, window)
    return f"clamp_min({sent} - ({fetched} or vector(0)), 0)"


def quantile(level: float, metric: str, labels: str, by: str) -> str:
    """Return a quantile of a histogram."""
    return f"histogram_quantile({level}, {total(f'{metric}_bucket', labels, _RATE, by=f'{by}, le')})"


def gauge(metric: str, labels: str = _MIRROR) -> str:
    """Return a gauge as it is."""
    return f"{metric}{{{labels}}}"


# --- the rows ---


def stat(title: str, says: str, expression: str, unit: str = "short", **more: Any) -> Panel:  # noqa: ANN401 - Panel's own
    """Return one number with the line of its past behind it."""
    return Panel(
        title=title, says=says, queries=(Query(expression, ""),), unit=unit, kind="stat", width=3, height=4, **more
    )


AT_A_GLANCE = Row(
    "At a glance",
    (
        stat(
            "Hit rate by requests",
            "Of the requests for manifests and blobs in the range shown: how many were answered from the store.",
            hit_rate("mirror_requests_total", _RANGE),
            "percentunit",
            thresholds=_GREEN_IS_HIGH,
        ),
        stat(
            "Hit rate by bytes",
            "Of the bytes sent in the range shown: how many came from the store.",
            hit_rate("mirror_response_bytes_total", _RANGE),
            "percentunit",
            thresholds=_GREEN_IS_HIGH,
        ),
        stat(
            "Bytes saved",
            "Sent to clients and not fetched from an upstream, in the range shown.",
            saved(_RANGE),
            "bytes",
        ),
        stat(
            "Requests",
            "Of clients, for anything of a registry.",
            total("mirror_requests_total", f'{_UPSTREAM}, kind!="other"', _RATE) + " or vector(0)",
            "reqps",
        ),
        stat(
            "Upstreams down",
            "Upstreams whose last request was not answered.",
            f"count({gauge('mirror_upstream_up', _UPSTREAM)} == 0) or vector(0)",
            thresholds=_GREEN_IS_ZERO,
        ),
        stat("Downloads", "In progress now.", f"sum({gauge('mirror_fills_in_progress')})"),
        stat("Stored", "Bytes of blobs and manifests in the cache.", f"sum({gauge('mirror_cache_bytes')})", "bytes"),
        stat("Workers", "Processes that serve now.", f"sum({gauge('mirror_workers')})"),
    ),
)

TRAFFIC = Row(
    "What clients ask and get",
    (
        Panel(
            title="Requests by outcome",
            says="Manifests and blobs. What each outcome means: docs/metrics.md.",
            queries=(Query(total("mirror_requests_total", _PULLS, _RATE, by="outcome"), "{{outcome}}"),),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Hit rate",
            says="The part that was answered from the store, of what can be.",
            queries=(
                Query(hit_rate("mirror_requests_total", _RATE), "by requests"),
                Query(hit_rate("mirror_response_bytes_total", _RATE), "by bytes"),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            title="Bytes sent and fetched",
            says="What lies between the two lines was saved.",
            queries=(
                Query(total("mirror_response_bytes_total", _PULLS, _RATE), "sent to clients"),
                Query(total("mirror_upstream_bytes_total", _PULLS, _RATE) + " or vector(0)", "fetched from upstreams"),
            ),
            unit="Bps",
        ),
        Panel(
            title="Time to first byte, median",
            says="From a request's arrival to the start of its answer.",
            queries=(Query(quantile(0.5, "mirror_time_to_first_byte_seconds", _PULLS, "outcome"), "{{outcome}}"),),
            unit="s",
        ),
        Panel(
            title="Time to first byte, 99 of 100",
            says="One request in a hundred waits longer than this.",
            queries=(Query(quantile(0.99, "mirror_time_to_first_byte_seconds", _PULLS, "outcome"), "{{outcome}}"),),
            unit="s",
        ),
        Panel(
            title="Answers that are errors",
            says="By status. 404 is an answer about an image, 5xx says that an upstream or the store failed.",
            queries=(
                Query(total("mirror_requests_total", f'{_UPSTREAM}, code=~"[45].."', _RATE, by="code"), "{{code}}"),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Coalesced requests",
            says="Joined a fetch that was already running, instead of causing one.",
            queries=(
                Query(
                    total("mirror_requests_total", f'{_UPSTREAM}, outcome="coalesced"', _RATE, by="kind"), "{{kind}}"
                ),
            ),
            unit="reqps",
            width=12,
        ),
        Panel(
            title="Stale answers",
            says="Served from the store because the upstream could not confirm them.",
            queries=(
                Query(
                    total("mirror_requests_total", f'{_UPSTREAM}, outcome="stale"', _RATE, by="upstream"),
                    "{{upstream}}",
                ),
            ),
            unit="reqps",
            width=12,
        ),
    ),
)

UPSTREAMS = Row(
    "Upstreams",
    (
        Panel(
            title="State",
            says="1: it answers, 0: it does not.",
            queries=(Query(f"min by (upstream) ({gauge('mirror_upstream_up', _UPSTREAM)})", "{{upstream}}"),),
            most=1,
        ),
        Panel(
            title="Requests to upstreams",
            says="By status; `error` where no answer came.",
            queries=(
                Query(
                    total("mirror_upstream_requests_total", _UPSTREAM, _RATE, by="upstream, code"),
                    "{{upstream}} {{code}}",
                ),
            ),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            title="Failed requests to upstreams",
            says="The part that was answered by 429, by a 5xx or not at all.",
            queries=(
                Query(
                    share(
                        "mirror_upstream_requests_total",
                        f'{_UPSTREAM}, code=~"429|5..|error"',
                        _UPSTREAM,
                        _RATE,
                        by="upstream",
                    ),
                    "{{upstream}}",
                ),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            title="Limit left",
            says="Of the pull limit, as the upstream last said. Upstreams that tell none are not here.",
            queries=(
                Query(
                    f"min by (upstream) ({gauge('mirror_upstream_ratelimit_remaining', _UPSTREAM)}"
                    f" / ({gauge('mirror_upstream_ratelimit_limit', _UPSTREAM)} > 0))",
                    "{{upstream}}",
                ),
            ),
            unit="percentunit",
            kind="bargauge",
            most=1,
            thresholds=_RED_IS_LOW,
        ),
        Panel(
            title="Time to an upstream's answer, 95 of 100",
            says="From a request to an upstream to the head of its answer.",
            queries=(Query(quantile(0.95, "mirror_upstream_request_seconds", _UPSTREAM, "upstream"), "{{upstream}}"),),
            unit="s",
        ),
        Panel(
            title="What went wrong with them",
            says="Broken downloads that went on, blobs that did not match their digest, refusals of a credential.",
            queries=(
                Query(total("mirror_fill_resumes_total", _UPSTREAM, _RANGE, by="upstream"), "{{upstream}} resumed"),
                Query(
                    total("mirror_digest_mismatches_total", _UPSTREAM, _RANGE, by="upstream"),
                    "{{upstream}} wrong digest",
                ),
                Query(
                    total("mirror_upstream_auth_failures_total", _UPSTREAM, _RANGE, by="upstream"),
                    "{{upstream}} credential refused",
                ),
            ),
            kind="table",
        ),
    ),
)

CACHE = Row(
    "Cache and processes",
    (
        Panel(
            title="Stored bytes",
            says="And what they are kept below (cache.max_size), where there is a limit.",
            queries=(
                Query(f"sum by (instance) ({gauge('mirror_cache_bytes')})", "{{instance}} stored"),
                Query(f"sum by (instance) ({gauge('mirror_cache_limit_bytes')} > 0)", "{{instance}} limit"),
            ),
            unit="bytes",
        ),
        Panel(
            title="Stored manifests and blobs",
            says="As the index has counted them.",
            queries=(Query(f"sum by (kind) ({gauge('mirror_cache_objects')})", "{{kind}}"),),
        ),
        Panel(
            title="Evictions",
            says="Bytes removed to keep cache.max_size (size) or cache.min_free (space).",
            queries=(Query(total("mirror_evicted_bytes_total", _MIRROR, _RATE, by="reason"), "{{reason}}"),),
            unit="Bps",
        ),
        Panel(
            title="Evicted manifests and blobs",
            says="How many went, and why.",
            queries=(Query(total("mirror_evictions_total", _MIRROR, _RATE, by="reason"), "{{reason}}"),),
            unit="ops",
        ),
        Panel(
            title="Downloads and workers",
            says="Downloads in progress, and processes that serve.",
            queries=(
                Query(f"sum by (instance) ({gauge('mirror_fills_in_progress')})", "{{instance}} downloads"),
                Query(f"sum by (instance) ({gauge('mirror_workers')})", "{{instance}} workers"),
            ),
        ),
        Panel(
            title="Versions",
            says="Which version runs where.",
            queries=(Query(f"max by (instance, version) ({gauge('mirror_build_info')})", "{{instance}} {{version}}"),),
            kind="table",
        ),
    ),
)

ROWS = (AT_A_GLANCE, TRAFFIC, UPSTREAMS, CACHE)

if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(ROWS), indent=2) + "\n")
