"""Traces as a collector receives them: the spans of a request, what they belong to, and what they say."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.telemetry.traces import tracing
from tests.support.collector import Collector
from tests.support.faults import Fault, Redirect, Status
from tests.support.images import blob, oci_image
from tests.support.mirrors import MirrorProcess, settings
from tests.support.process import RegistryProcess
from tests.support.pulling import mirror_client
from tests.support.registry import TestRegistry
from tests.support.waiting import wait_until

NAME = "library/app"
MANIFEST = f"/v2/{NAME}/manifests/1"
LAYER = blob(100_000)
BLOB = f"/v2/{NAME}/blobs/{LAYER.digest}"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
AWAY = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        started.add(NAME, "1", oci_image(1))
        started.add_blob(NAME, LAYER)
        yield started


@pytest.fixture(autouse=True)
def _clean(registry: RegistryProcess) -> Iterator[None]:
    yield
    registry.heal()
    registry.reset_record()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def mirror(registry: RegistryProcess, collector: Collector) -> Iterator[MirrorProcess]:
    with MirrorProcess({"docker.io": registry.base_url}) as started:
        yield started


def test_a_blob_that_is_not_stored_is_traced_down_to_its_download_and_the_request_upstream(
    mirror: MirrorProcess, collector: Collector
) -> None:
    answer = mirror.request(BLOB)
    (request,) = collector.named("GET blob")
    assert (request.role, request.parent, request.error) == ("server", "", None)
    assert request.facts == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "mirror.request_id": answer.headers["x-request-id"],
        "mirror.upstream": "docker.io",
        "mirror.repository": NAME,
        "mirror.reference": LAYER.digest,
        "mirror.kind": "blob",
        "mirror.outcome": "miss",
        "mirror.bytes_sent": LAYER.size_bytes,
    }
    (download,) = collector.named("download")
    assert (download.role, download.parent) == ("internal", request.id)
    assert (download.facts["mirror.reference"], download.facts["mirror.size_bytes"]) == (LAYER.digest, 100_000)
    (lookup,) = collector.named("index.find_held")
    assert (lookup.parent, lookup.facts["mirror.found"]) == (request.id, False)
    (upstream,) = collector.named("GET")
    assert (upstream.role, upstream.parent) == ("client", download.id)
    assert upstream.facts["http.response.status_code"] == 200
    assert upstream.facts["server.address"] == "127.0.0.1"
    assert {span.trace for span in collector.spans} == {request.trace}


def test_a_tag_that_is_not_known_is_traced_through_the_index_and_both_requests_upstream(
    mirror: MirrorProcess, collector: Collector
) -> None:
    mirror.request(MANIFEST)
    (request,) = collector.named("GET manifest")
    parts = Counter(span.name for span in collector.parts_of(request))
    assert set(parts) == {"GET", "HEAD", "index.find_held", "index.find_tag"}
    assert (parts["GET"], parts["HEAD"]) == (1, 1)


def test_each_hit_is_one_span_however_short_its_way(mirror: MirrorProcess, collector: Collector) -> None:
    """The third and later ones are answered before HTTP is even parsed."""
    answers = [mirror.request(MANIFEST) for _ in range(5)]
    spans = collector.named("GET manifest", 5)
    hits = [span for span in spans if span.facts["mirror.outcome"] == "hit"]
    assert [len(spans), len(hits)] == [5, 4]
    assert all(collector.parts_of(span) == [] for span in hits)
    assert all(set(span.facts) == set(spans[0].facts) and span.role == "server" for span in hits)
    asked = {answer.headers["x-request-id"] for answer in answers}
    assert {span.facts["mirror.request_id"] for span in spans} == asked
    assert len({span.trace for span in spans}) == 5


def test_who_brings_a_trace_has_its_requests_in_it_hits_too(
    mirror: MirrorProcess, collector: Collector, registry: RegistryProcess
) -> None:
    for _ in range(3):
        mirror.request(MANIFEST, headers=HEADERS)
    spans = collector.named("GET manifest", 3)
    assert {(span.trace, span.parent) for span in spans} == {(TRACE, PARENT)}
    wait_until(lambda: bool(collector.named("HEAD")))
    told = {one.headers["traceparent"] for one in registry.requests if one.reference == "1"}
    (head,) = collector.named("HEAD")
    assert told == {f"00-{TRACE}-{head.id}-01"}


def test_what_is_not_to_be_sampled_is_not(mirror: MirrorProcess, collector: Collector) -> None:
    unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    mirror.request(MANIFEST, headers=unsampled)
    mirror.request(BLOB)
    collector.named("GET blob")
    assert TRACE not in {span.trace for span in collector.spans}


def test_a_cdn_is_not_told_of_the_trace(mirror: MirrorProcess, registry: RegistryProcess, collector: Collector) -> None:
    registry.fail(Fault(action=Redirect(), kind="blob"))
    assert mirror.request(BLOB, headers=HEADERS).body == LAYER.content
    told = {(one.kind, "traceparent" in one.headers) for one in registry.requests if one.kind in {"blob", "cdn"}}
    assert told == {("blob", True), ("cdn", False)}
    (download,) = collector.named("download")
    hops = {span.facts["http.response.status_code"] for span in collector.parts_of(download)}
    assert hops == {307, 200}


async def test_a_public_registry_is_not_told_of_the_trace(collector: Collector, tmp_path: Path) -> None:
    """It would say which requests, and whose, belong together."""
    async with TestRegistry() as upstream, tracing(os.environ) as tracer:
        upstream.add_blob(NAME, LAYER)
        flags = settings({"docker.io": upstream.base_url})
        async with mirror_client(tmp_path, flags, public="127.0.0.1", tracer=tracer) as client:
            answer = await client.ask(BLOB, headers=HEADERS)
            assert answer.body == LAYER.content
        assert ["traceparent" in one.headers for one in upstream.requests if one.kind == "blob"] == [False]
    spans = await asyncio.to_thread(collector.named, "download")
    assert [span.trace for span in spans] == [TRACE]


def test_an_upstream_that_fails_is_an_error_all_the_way(
    mirror: MirrorProcess, registry: RegistryProcess, collector: Collector
) -> None:
    registry.fail(Fault(action=Status(status=503)))
    answer = mirror.request(BLOB)
    (request,) = collector.named("GET blob")
    assert request.facts["http.response.status_code"] == answer.status
    assert request.error is not None
    assert "docker.io answered 503" in request.error
    (download,) = collector.named("download")
    assert download.error == request.error
    upstream = collector.parts_of(download)
    assert upstream
    assert {(span.facts["http.response.status_code"], span.error) for span in upstream} == {(503, "answered 503")}


def test_what_is_not_there_is_no_failure_of_the_mirror(mirror: MirrorProcess, collector: Collector) -> None:
    mirror.request(f"/v2/{NAME}/manifests/none")
    (request,) = collector.named("GET manifest")
    assert (request.facts["http.response.status_code"], request.error) == (404, None)


def test_who_looks_after_the_mirror_is_not_traced(mirror: MirrorProcess, collector: Collector) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/"):
        mirror.request(path)
    mirror.request(BLOB)
    collector.named("GET blob")
    assert {span.name for span in collector.spans if span.role == "server"} == {"GET blob"}


def test_each_worker_sends_its_own_and_the_last_of_them_before_it_ends(
    registry: RegistryProcess, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mirror-of-the-test")
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror:
        wait_until(lambda: len(mirror.worker_pids) == 2)
        pids = set(mirror.worker_pids)
        answered: set[object] = set()
        count = 0
        while answered != pids:
            mirror.request(MANIFEST)
            count += 1
            answered = {event["pid"] for event in mirror.events() if event["event"] == "request.served"}
    spans = collector.named("GET manifest", count)
    assert len(spans) == count
    assert {span.resource["process.pid"] for span in spans} == pids
    assert {span.resource["service.name"] for span in spans} == {"mirror-of-the-test"}


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "the mirror sends traces by http/protobuf, not by grpc"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "0"}, "schedule_delay_millis must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_said_and_stop_no_pull(
    registry: RegistryProcess,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    error: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with MirrorProcess({"docker.io": registry.base_url}) as mirror:
        assert mirror.request(BLOB).body == LAYER.content
        (warning,) = [event for event in mirror.events() if event["event"] == "traces.unavailable"]
    assert error in str(warning["error"])
    assert collector.spans == ()


def test_a_collector_that_is_away_stops_nothing(registry: RegistryProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", AWAY["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with MirrorProcess({"docker.io": registry.base_url}) as mirror:
        assert mirror.request(BLOB).body == LAYER.content
        process = mirror.terminate()
        assert process.wait(timeout=15) == 0


_WITHOUT = """
import asyncio, sys
sys.modules[{missing!r} or "none"] = None
from mirror.ports import UNTRACED
import mirror.app, mirror.web.hot
from mirror.telemetry.traces import tracing
async def main():
    async with tracing({environment}) as tracer:
        print(tracer is UNTRACED, sum(name.startswith("opentelemetry.") for name in sys.modules))
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("environment", "missing", "says"),
    [
        ({}, None, ""),
        ({**AWAY, "OTEL_SDK_DISABLED": "true"}, None, ""),
        ({**AWAY, "OTEL_TRACES_EXPORTER": "none"}, None, ""),
        (AWAY, "opentelemetry", "install mirror[traces]"),
    ],
)
def test_without_the_extra_or_unasked_nothing_is_imported(
    environment: dict[str, str], missing: str | None, says: str
) -> None:
    code = _WITHOUT.format(environment=environment, missing=missing)
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-1] == "True 0"
    assert says in output
