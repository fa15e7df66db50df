"""A real Prometheus watches a mirror of two workers under load, by the rules and the dashboard that are shipped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import IncompleteRead
from pathlib import Path

import pytest

from grafana.dashboard import ROWS
from tests.support.faults import Cut, Fault, FlipByte, Slow, Status
from tests.support.images import blob, oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.ports import free_port
from tests.support.process import RegistryProcess
from tests.support.prometheus import Prometheus
from tests.support.registry import RateLimit

ROUNDS = 7
CLIENTS = 6
IMAGES = [oci_image(900 + number, layers=1, layer_bytes=400_000) for number in range(ROUNDS)]
OLD, LAST = oci_image(990, layers=1), oci_image(991, layers=1)
WRONG, BROKEN = blob(200_000, 992), blob(200_000, 993)
LIVE = {
    "MirrorErrorRateHigh": "ghcr.io",
    "MirrorUpstreamDown": "ghcr.io",
    "MirrorStaleServed": "docker.io",
    "MirrorRateLimitNearlyGone": "docker.io",
    "MirrorCredentialRefused": "quay.io",
    "MirrorDigestMismatch": "docker.io",
}
PANELS = [(panel, query.expression) for row in ROWS for panel in row.panels for query in panel.queries]
VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$job": ".*", "$instance": ".*", "$upstream": ".*"}


@pytest.fixture(scope="module")
def hub() -> Iterator[RegistryProcess]:
    with RegistryProcess() as registry:
        for number, image in enumerate(IMAGES):
            registry.add("library/app", str(number), image)
        registry.add("library/old", "stable", OLD)
        registry.add("library/last", "1", LAST)
        registry.add_blob("library/app", WRONG)
        registry.add_blob("library/app", BROKEN)
        yield registry


@pytest.fixture(scope="module")
def mirror(hub: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MirrorProcess]:
    """Has the hub behind it, a registry that is gone, and one that refuses its credential."""
    password = tmp_path_factory.mktemp("secrets") / "password"
    password.write_text("wrong", encoding="utf-8")
    extra = f'username = "robot"\npassword_file = "{password}"\n[cache]\ntag_ttl = "1s"\nmax_size = "2MB"\n'
    gone = f"http://127.0.0.1:{free_port()}"
    with RegistryProcess(settings={"auth": "basic", "users": {"robot": "right"}}) as closed:
        upstreams = {"docker.io": hub.base_url, "ghcr.io": gone, "quay.io": closed.base_url}
        with MirrorProcess(upstreams, workers=2, extra=extra) as started:
            yield started


@pytest.fixture(scope="module")
def prometheus(hub: RegistryProcess, mirror: MirrorProcess) -> Iterator[Prometheus]:
    """Has seen the mirror at rest, when nothing fired, and then under load."""
    with Prometheus(mirror.host) as started, ThreadPoolExecutor(CLIENTS) as pool:
        started.until(lambda: bool(started.query("mirror_fills_in_progress")))
        started.until(lambda: all(rule["health"] == "ok" for rule in started.rules()))
        started.until(lambda: started.firing() == {})  # before its first scrape no mirror was there
        assert mirror.request("/v2/library/old/manifests/stable").status == 200
        hub.fail(
            Fault(action=Status(status=500), path="library/old/manifests/stable"),
            Fault(action=Cut(), path=BROKEN.digest, times=1),
            Fault(action=FlipByte(), path=WRONG.digest),
            Fault(action=Slow(before_headers_seconds=0.1)),
        )
        for number in range(ROUNDS):
            put_load_on(mirror, number, pool)
            started.until_scraped()
        with suppress(IncompleteRead):
            assert mirror.request(f"/v2/library/app/blobs/{WRONG.digest}").status != 200
        hub.heal()
        hub.set_limit(RateLimit(limit=100, remaining=5))
        assert mirror.request("/v2/library/last/manifests/1").status == 200
        yield started


def put_load_on(mirror: MirrorProcess, number: int, pool: ThreadPoolExecutor) -> None:
    """Pull one image more by some clients at once, and again, and meet everything that goes wrong."""
    image = IMAGES[number]
    paths = [f"/v2/library/app/manifests/{number}", *(f"/v2/library/app/blobs/{part.digest}" for part in image.blobs)]
    for path in [*paths, *paths]:
        assert {answer.status for answer in pool.map(mirror.request, [path] * CLIENTS)} == {200}
    assert mirror.request("/v2/library/old/manifests/stable").status == 200
    assert mirror.request(f"/v2/library/app/blobs/{BROKEN.digest}").body == BROKEN.content
    assert mirror.request("/v2/library/app/tags/list").status == 200
    assert mirror.request("/v2/ghcr.io/owner/app/manifests/1").status in {502, 503, 504}
    assert mirror.request("/v2/quay.io/owner/app/manifests/1").status in {403, 404}


def filled_in(expression: str) -> str:
    """Return a panel's expression as Grafana would send it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize(
    "expression",
    [pytest.param(expression, id=f"{number} {panel.title}") for number, (panel, expression) in enumerate(PANELS)],
)
def test_each_panel_has_data(prometheus: Prometheus, expression: str) -> None:
    prometheus.until(lambda: bool(prometheus.query(filled_in(expression))))


def test_the_figures_of_the_panels_are_those_of_the_load(prometheus: Prometheus) -> None:
    shown = {
        panel.title: float(prometheus.query(filled_in(expression))[0]["value"][1])
        for panel, expression in PANELS
        if panel.kind == "stat"
    }
    assert 0.2 < shown["Hit rate by requests"] < 0.9
    assert 0.2 < shown["Hit rate by bytes"] < 0.95
    assert shown["Bytes saved"] > 0
    assert shown["Upstreams down"] == 1
    assert shown["Workers"] == 2
    assert 0 < shown["Stored"] < 2_000_000


def test_each_variable_of_the_dashboard_has_values(prometheus: Prometheus, mirror: MirrorProcess) -> None:
    assert prometheus.values_of("job", "mirror_build_info") == ["mirror"]
    assert prometheus.values_of("instance", "mirror_build_info") == [mirror.host]
    assert {"docker.io", "ghcr.io", "quay.io"} <= set(prometheus.values_of("upstream", "mirror_requests_total"))


@pytest.mark.parametrize("name", LIVE)
def test_an_alert_fires_for_the_upstream_that_it_is_about(prometheus: Prometheus, name: str) -> None:
    def upstreams() -> list[str]:
        return [alert["labels"]["upstream"] for alert in prometheus.firing().get(name, [])]

    prometheus.until(lambda: upstreams() == [LIVE[name]])
    (alert,) = prometheus.firing()[name]
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook"}
    assert LIVE[name] in annotations["summary"] + annotations["description"]
    assert not re.search(r"no value|[{}]", " ".join(annotations.values()))


def test_each_alerts_expression_can_be_evaluated(prometheus: Prometheus) -> None:
    rules = prometheus.rules()
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule.get("lastError")] == []
    assert {rule["name"] for rule in rules if rule["health"] == "ok"} >= {*LIVE, "MirrorGone"}


def test_a_mirror_that_is_gone_is_noticed_and_its_return_too(prometheus: Prometheus, mirror: MirrorProcess) -> None:
    """Last in this file: the alerts on counters begin anew with the process."""
    assert "MirrorGone" not in prometheus.firing()
    mirror.stop()
    prometheus.until(lambda: "MirrorGone" in prometheus.firing())
    assert mirror.host in prometheus.firing()["MirrorGone"][0]["annotations"]["summary"]
    mirror.start()
    prometheus.until(lambda: "MirrorGone" not in prometheus.firing())
    stored = float(prometheus.query("mirror_cache_bytes")[0]["value"][1])
    on_disk = sum(path.stat().st_size for path in Path(mirror.cache_folder, "blobs").rglob("*") if path.is_file())
    assert stored == on_disk
