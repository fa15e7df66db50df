"""When each alert fires and when it does not, on made-up series, with the thresholds and times that are shipped."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.prometheus import CONFIGURATION

RULES = CONFIGURATION / "alerts.yml"
LABELS = 'job="mirror", instance="a:5000"'
HUB = f'{LABELS}, upstream="docker.io"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An alert and what Prometheus saw, one value a minute: ``0x5`` stays, ``0+1x5`` counts, ``_`` is no answer."""

    alert: str
    when: str
    series: dict[str, str]
    fires: tuple[str, ...] = ()
    rests: tuple[str, ...] = ()


def answers(code: int, values: str, outcome: str = "none") -> dict[str, str]:
    """Return a series of answered pulls."""
    labels = f'{HUB}, kind="blob", outcome="{outcome}", code="{code}"'
    return {f"mirror_requests_total{{{labels}}}": values}


def limit(remaining: str, *, asked: str, of: int = 100) -> dict[str, str]:
    """Return what an upstream said of its limit, and how often it was asked."""
    return {
        f"mirror_upstream_ratelimit_remaining{{{HUB}}}": remaining,
        f"mirror_upstream_ratelimit_limit{{{HUB}}}": f"{of}x800",
        f'mirror_upstream_requests_total{{{HUB}, kind="manifest", method="HEAD", code="200"}}': asked,
    }


def stored(size_bytes: int, of: int) -> dict[str, str]:
    """Return a cache of this size."""
    return {f"mirror_cache_bytes{{{LABELS}}}": f"{size_bytes}x60", f"mirror_cache_limit_bytes{{{LABELS}}}": f"{of}x60"}


UP, UPSTREAM_UP = f"up{{{LABELS}}}", f"mirror_upstream_up{{{HUB}}}"
REFUSED, WRONG = f"mirror_upstream_auth_failures_total{{{HUB}}}", f"mirror_digest_mismatches_total{{{HUB}}}"
EVICTED = "mirror_evictions_total{" + LABELS + ', reason="%s"}'
CASES = (
    Case(alert="MirrorGone", when="it stops", series={UP: "1x9 0x20"}, rests=("9m", "11m"), fires=("13m",)),
    Case(
        alert="MirrorGone", when="it was never there", series={'up{job="other"}': "1x20"}, rests=("1m",), fires=("3m",)
    ),
    Case(alert="MirrorGone", when="it comes back", series={UP: "1x4 0x4 1x20"}, fires=("8m",), rests=("4m", "11m")),
    Case(
        alert="MirrorErrorRateHigh",
        when="one in ten fails",
        series=answers(200, "0+9x60", "hit") | answers(502, "0+1x60"),
        rests=("5m",),
        fires=("8m", "50m"),
    ),
    Case(
        alert="MirrorErrorRateHigh",
        when="one in fifty fails",
        series=answers(200, "0+49x60", "hit") | answers(502, "0+1x60"),
        rests=("8m", "50m"),
    ),
    Case(
        alert="MirrorErrorRateHigh",
        when="all are not there",
        series=answers(404, "0+9x60"),
        rests=("8m", "50m"),
    ),
    Case(alert="MirrorUpstreamDown", when="it falls", series={UPSTREAM_UP: "1x9 0x20"}, rests=("11m",), fires=("13m",)),
    Case(alert="MirrorUpstreamDown", when="it falls for a moment", series={UPSTREAM_UP: "1x9 0 1x20"}, rests=("13m",)),
    Case(
        alert="MirrorStaleServed",
        when="it lasts",
        series=answers(200, "0+1x60", "stale"),
        rests=("9m",),
        fires=("15m", "50m"),
    ),
    Case(
        alert="MirrorStaleServed",
        when="it has ended",
        series=answers(200, "0+1x20 20x40", "stale"),
        fires=("20m",),
        rests=("40m",),
    ),
    Case(alert="MirrorStaleServed", when="all are hits", series=answers(200, "0+9x60", "hit"), rests=("30m",)),
    Case(
        alert="MirrorRateLimitNearlyGone",
        when="it is used up",
        series=limit("50-1x49 1x200", asked="0+1x300"),
        rests=("40m", "45m"),
        fires=("48m", "60m"),
    ),
    Case(
        alert="MirrorRateLimitNearlyGone",
        when="nobody has asked since",
        series=limit("5x300", asked="0+1x20 20x280"),
        fires=("20m",),
        rests=("60m",),
    ),
    Case(
        alert="MirrorRateLimitNearlyGone",
        when="there is no limit",
        series=limit("0x300", asked="0+1x300", of=0),
        rests=("60m",),
    ),
    Case(
        alert="MirrorCredentialRefused",
        when="once, and then again after six hours",
        series={REFUSED: "0x9 1x360 2x720"},
        rests=("9m",),
        fires=("11m", "6h", "12h"),
    ),
    Case(alert="MirrorCredentialRefused", when="long ago", series={REFUSED: "0x9 1x700"}, rests=("7h",)),
    Case(
        alert="MirrorCredentialRefused", when="before the last start", series={REFUSED: "0x9 1x9 0x60"}, rests=("30m",)
    ),
    Case(alert="MirrorDigestMismatch", when="once", series={WRONG: "0x9 1x100"}, rests=("9m", "80m"), fires=("11m",)),
    Case(
        alert="MirrorCacheNearlyFull",
        when="no room can be made",
        series=stored(990, 1000),
        rests=("10m",),
        fires=("16m",),
    ),
    Case(alert="MirrorCacheNearlyFull", when="room is made as it should", series=stored(968, 1000), rests=("50m",)),
    Case(alert="MirrorCacheNearlyFull", when="there is no limit", series=stored(990, 0), rests=("50m",)),
    Case(
        alert="MirrorDiskNearlyFull",
        when="for space",
        series={EVICTED % "space": "0x9 5x60"},
        rests=("9m", "50m"),
        fires=("11m",),
    ),
    Case(alert="MirrorDiskNearlyFull", when="for size", series={EVICTED % "size": "0+5x60"}, rests=("30m",)),
)


def as_promtool_reads_it(case: Case) -> dict[str, Any]:
    """Return one unit test: at each time, how many alerts of this name fire."""
    expression = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    times = [(time, [{"labels": "{}", "value": 1}]) for time in case.fires] + [(time, []) for time in case.rests]
    return {
        "name": f"{case.alert}: {case.when}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {"expr": expression, "eval_time": time, "exp_samples": expected} for time, expected in times
        ],
    }


def promtool(*arguments: str | Path) -> str:
    """Run it; return what it has to say, nothing where all is well."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    tests = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [*map(as_promtool_reads_it, CASES)]}
    (tmp_path / "tests.yml").write_text(json.dumps(tests), encoding="utf-8")  # JSON is YAML
    assert promtool("test", "rules", tmp_path / "tests.yml") == ""


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    assert promtool("check", "config", CONFIGURATION / "prometheus.yml") == ""
    assert promtool("check", "rules", RULES) == ""


def test_each_alert_is_seen_to_fire_and_to_rest() -> None:
    names = {line.split()[-1] for line in RULES.read_text(encoding="utf-8").splitlines() if "- alert:" in line}
    assert {case.alert for case in CASES if case.fires} == names
    assert {case.alert for case in CASES if case.rests} == names
