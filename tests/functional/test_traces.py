"""Traces as a collector receives them: the spans of a request, what they belong to, and what they say."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.ports import UNTRACED
from mirror.telemetry.traces import tracing
from tests.support.collector import Collector
from tests.support.faults import Fault, Redirect, Status
from tests.support.images import Blob, blob, oci_image
from tests.support.mirrors import MirrorProcess, settings
from tests.support.process import RegistryProcess
from tests.support.pulling import mirror_client
from tests.support.registry import TestRegistry
from tests.support.snippets import ROOT
from tests.support.waiting import wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
AWAY = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
_seeds = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Content:
    """What the upstream has for one test alone, so that its spans are told from all others."""

    name: str
    layer: Blob

    @property
    def manifest(self) -> str:
        return f"/v2/{self.name}/manifests/1"

    @property
    def blob(self) -> str:
        return f"/v2/{self.name}/blobs/{self.layer.digest}"


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        yield started


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as started, pytest.MonkeyPatch.context() as environment:
        for name, value in started.environment.items():
            environment.setenv(name, value)
        yield started


@pytest.fixture(scope="module")
def mirror(registry: RegistryProcess, collector: Collector) -> Iterator[MirrorProcess]:
    with MirrorProcess({"docker.io": registry.base_url}) as started:
        yield started


@pytest.fixture
def content(registry: RegistryProcess) -> Iterator[Content]:
    seed = next(_seeds)
    made = Content(f"library/app-{seed}", blob(100_000, seed))
    registry.add(made.name, "1", oci_image(seed))
    registry.add_blob(made.name, made.layer)
    yield made
    registry.heal()
    registry.reset_record()


def test_a_blob_that_is_not_stored_is_traced_down_to_its_download_and_the_request_upstream(
    mirror: MirrorProcess, collector: Collector, content: Content
) -> None:
    answer = mirror.request(content.blob)
    (request,) = collector.named("GET blob", content.name)
    assert (request.role, request.parent, request.error) == ("server", "", None)
    assert request.facts == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "mirror.request_id": answer.headers["x-request-id"],
        "mirror.upstream": "docker.io",
        "mirror.repository": content.name,
        "mirror.reference": content.layer.digest,
        "mirror.kind": "blob",
        "mirror.outcome": "miss",
        "mirror.bytes_sent": content.layer.size_bytes,
    }
    (download,) = collector.named("download", content.name)
    assert (download.role, download.parent) == ("internal", request.id)
    assert (download.facts["mirror.reference"], download.facts["mirror.size_bytes"]) == (content.layer.digest, 100_000)
    (lookup,) = collector.named("index.find_held", content.name)
    assert (lookup.parent, lookup.facts["mirror.found"]) == (request.id, False)
    (upstream,) = collector.parts_of(download)
    assert (upstream.role, upstream.name) == ("client", "GET")
    assert upstream.facts["http.response.status_code"] == 200
    assert upstream.facts["server.address"] == "127.0.0.1"
    assert {span.trace for span in (request, download, lookup, upstream)} == {request.trace}


def test_a_tag_that_is_not_known_is_traced_through_the_index_and_both_requests_upstream(
    mirror: MirrorProcess, collector: Collector, content: Content
) -> None:
    mirror.request(content.manifest)
    (request,) = collector.named("GET manifest", content.name)
    parts = Counter(span.name for span in collector.parts_of(request))
    assert set(parts) == {"GET", "HEAD", "index.find_held", "index.find_tag"}
    assert (parts["GET"], parts["HEAD"]) == (1, 1)


def test_each_hit_is_one_span_however_short_its_way(
    mirror: MirrorProcess, collector: Collector, content: Content
) -> None:
    """The third and later ones are answered before HTTP is even parsed."""
    answers = [mirror.request(content.manifest) for _ in range(5)]
    spans = collector.named("GET manifest", content.name, 5)
    hits = [span for span in spans if span.facts["mirror.outcome"] == "hit"]
    assert [len(spans), len(hits)] == [5, 4]
    assert all(collector.parts_of(span) == [] for span in hits)
    assert all(set(span.facts) == set(spans[0].facts) and span.role == "server" for span in hits)
    asked = {answer.headers["x-request-id"] for answer in answers}
    assert {span.facts["mirror.request_id"] for span in spans} == asked
    assert len({span.trace for span in spans}) == 5


def test_who_brings_a_trace_has_its_requests_in_it_hits_too(
    mirror: MirrorProcess, collector: Collector, registry: RegistryProcess, content: Content
) -> None:
    for _ in range(3):
        mirror.request(content.manifest, headers=HEADERS)
    spans = collector.named("GET manifest", content.name, 3)
    assert {(span.trace, span.parent) for span in spans} == {(TRACE, PARENT)}
    (told,) = {one.headers["traceparent"] for one in registry.requests if one.reference == "1"}
    assert told in {f"00-{TRACE}-{span.id}-01" for span in collector.spans if span.name == "HEAD"}


def test_what_is_not_to_be_sampled_is_not(mirror: MirrorProcess, collector: Collector, content: Content) -> None:
    mirror.request(content.manifest, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    mirror.request(content.blob)
    collector.named("GET blob", content.name)
    assert [
        span
        for span in collector.spans
        if span.name == "GET manifest" and span.facts["mirror.repository"] == content.name
    ] == []


def test_a_cdn_is_not_told_of_the_trace(
    mirror: MirrorProcess, registry: RegistryProcess, collector: Collector, content: Content
) -> None:
    registry.fail(Fault(action=Redirect(), kind="blob"))
    assert mirror.request(content.blob, headers=HEADERS).body == content.layer.content
    told = {(one.kind, "traceparent" in one.headers) for one in registry.requests if one.kind in {"blob", "cdn"}}
    assert told == {("blob", True), ("cdn", False)}
    (download,) = collector.named("download", content.name)
    hops = {span.facts["http.response.status_code"] for span in collector.parts_of(download)}
    assert hops == {307, 200}


async def test_a_public_registry_is_not_told_of_the_trace(
    collector: Collector, content: Content, tmp_path: Path
) -> None:
    """It would say which requests, and whose, belong together."""
    async with TestRegistry() as upstream, tracing(os.environ) as tracer:
        upstream.add_blob(content.name, content.layer)
        flags = settings({"docker.io": upstream.base_url})
        async with mirror_client(tmp_path, flags, public="127.0.0.1", tracer=tracer) as client:
            answer = await client.ask(content.blob, headers=HEADERS)
            assert answer.body == content.layer.content
        assert ["traceparent" in one.headers for one in upstream.requests if one.kind == "blob"] == [False]
    spans = await asyncio.to_thread(collector.named, "download", content.name)
    assert [span.trace for span in spans] == [TRACE]


def test_an_upstream_that_fails_is_an_error_all_the_way(
    mirror: MirrorProcess, registry: RegistryProcess, collector: Collector, content: Content
) -> None:
    registry.fail(Fault(action=Status(status=503)))
    answer = mirror.request(content.blob)
    (request,) = collector.named("GET blob", content.name)
    assert request.facts["http.response.status_code"] == answer.status
    assert request.error is not None
    assert "docker.io answered 503" in request.error
    (download,) = collector.named("download", content.name)
    assert download.error == request.error
    upstream = collector.parts_of(download)
    assert upstream
    assert {(span.facts["http.response.status_code"], span.error) for span in upstream} == {(503, "answered 503")}


def test_what_is_not_there_is_no_failure_of_the_mirror(
    mirror: MirrorProcess, collector: Collector, content: Content
) -> None:
    mirror.request(f"/v2/{content.name}/manifests/none")
    (request,) = collector.named("GET manifest", content.name)
    assert (request.facts["http.response.status_code"], request.error) == (404, None)


def test_who_looks_after_the_mirror_is_not_traced(
    mirror: MirrorProcess, collector: Collector, content: Content
) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/"):
        mirror.request(path)
    mirror.request(content.blob)
    collector.named("GET blob", content.name)
    assert {span.facts["mirror.kind"] for span in collector.spans if span.role == "server"} <= {"manifest", "blob"}


def test_each_span_and_what_it_says_is_documented(
    mirror: MirrorProcess, collector: Collector, content: Content
) -> None:
    for path in (content.manifest, content.manifest, content.blob, f"/v2/{content.name}/blobs/none"):
        mirror.request(path)
    mirror.request(content.manifest, method="DELETE")
    collector.named("GET blob", content.name)
    wait_until(lambda: any(span.name == "request" for span in collector.spans))
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").partition("## Traces")[2]
    rows = [re.findall(r"`([^`]+)`", row) for row in page.splitlines() if row.startswith("| `")]
    documented = {name: set(row) for row in rows for name in row}
    for span in collector.spans:
        name = "GET manifest" if span.role == "server" and span.name != "request" else span.name
        said = {key if key in documented[name] else key.removeprefix("mirror.") for key in span.facts}
        assert said <= documented[name], span


def test_each_worker_sends_its_own_and_the_last_of_them_before_it_ends(
    registry: RegistryProcess, collector: Collector, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mirror-of-the-test")
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror:
        wait_until(lambda: len(mirror.worker_pids) == 2)
        pids = set(mirror.worker_pids)
        answered: set[object] = set()
        count = 0
        while answered != pids:
            mirror.request(content.manifest)
            count += 1
            answered = {event["pid"] for event in mirror.events() if event["event"] == "request.served"}
    spans = collector.named("GET manifest", content.name, count)
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
async def test_settings_that_make_no_sense_are_said_and_leave_the_mirror_untraced(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], error: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with capture_logs() as logged:
        async with tracing(os.environ) as tracer:
            assert tracer is UNTRACED
    (warning,) = [event for event in logged if event["event"] == "traces.unavailable"]
    assert error in warning["error"]


def test_a_collector_that_is_away_stops_nothing(
    registry: RegistryProcess, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", AWAY["OTEL_EXPORTER_OTLP_ENDPOINT"])
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with MirrorProcess({"docker.io": registry.base_url}) as mirror:
        assert mirror.request(content.blob).body == content.layer.content
        process = mirror.terminate()
        assert process.wait(timeout=15) == 0


_WITHOUT = """
import asyncio, sys
sys.modules[{missing!r} or "none"] = None
from mirror.ports import UNTRACED
import mirror.app, mirror.web.hot
from mirror.telemetry.traces import tracing
async def main():
    for environment in {environments}:
        async with tracing(environment) as tracer:
            print(tracer is UNTRACED, sum(name.startswith("opentelemetry.") for name in sys.modules))
asyncio.run(main())
"""


def said_by_a_process(environments: list[dict[str, str]], missing: str | None = None) -> list[str]:
    code = _WITHOUT.format(environments=environments, missing=missing)
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()


def test_unasked_nothing_is_imported() -> None:
    unasked = [{}, {**AWAY, "OTEL_SDK_DISABLED": "true"}, {**AWAY, "OTEL_TRACES_EXPORTER": "none"}]
    assert said_by_a_process(unasked) == ["True 0"] * 3


def test_without_the_extra_it_is_said_what_to_install() -> None:
    *said, last = said_by_a_process([AWAY], missing="opentelemetry")
    assert last == "True 0"
    assert "install mirror[traces]" in "".join(said)
