"""What the mirror says about itself: every metric with its labels, one log line a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from structlog.typing import EventDict

from mirror import __version__
from tests.functional.conftest import StartMirror
from tests.support.faults import Cut, Fault, FlipByte, Hang, Status
from tests.support.images import Image, blob, docker_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.pulling import MirrorClient
from tests.support.registry import RateLimit, TestRegistry

NAME = "library/app"
TAG = f"/v2/{NAME}/manifests/latest"
IMAGE = docker_image(1)
LAYER = IMAGE.layers[0]
HUB = {"upstream": "docker.io"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "latest", IMAGE)
    return registry


async def scrape(client: MirrorClient) -> Samples:
    """Read ``/metrics`` as Prometheus does."""
    answer = await client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return parse(answer.body)


async def scrape_until(client: MirrorClient, condition: Callable[[Samples], bool]) -> Samples:
    """Scrape until something is true: a client has its last byte before a blob has its name and is counted."""
    async with asyncio.timeout(5):
        while not condition(samples := await scrape(client)):
            pass
    return samples


def parse(body: bytes) -> Samples:
    families = text_string_to_metric_families(body.decode())
    samples = [sample for family in families for sample in family.samples]
    made = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(made) == len(samples)
    return made


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def requests(samples: Samples) -> dict[tuple[str, str, str], float]:
    """Return the clients' requests of Docker Hub's images by kind, outcome and code."""
    counted = {}
    for (name, labels), number in samples.items():
        found = dict(labels)
        if name == "mirror_requests_total" and found["upstream"] == "docker.io":
            counted[found["kind"], found["outcome"], found["code"]] = number
    return counted


def total(samples: Samples, name: str) -> float:
    return sum(number for (found, _), number in samples.items() if found == name)


async def pull(client: MirrorClient, image: Image = IMAGE) -> None:
    await client.get(TAG)
    for one in image.blobs:
        await client.get(f"/v2/{NAME}/blobs/{one.digest}")


async def test_every_outcome_is_counted_once_where_it_belongs(registry: TestRegistry, client: MirrorClient) -> None:
    await pull(client)  # misses
    await pull(client)  # hits
    client.mirror.clock.advance(61)
    await client.head(TAG)  # revalidated
    await client.get(f"/v2/{NAME}/manifests/none")
    await client.get(f"/v2/{NAME}/manifests/none")  # negative
    await client.get(f"/v2/{NAME}/tags/list")
    await client.get(f"/v2/{NAME}/referrers/{IMAGE.digest}")
    await client.get("/v1/search?q=app")
    registry.fail(Fault(action=Status(status=500)))
    await client.get(f"/v2/{NAME}/manifests/other")
    client.mirror.clock.advance(61)
    await client.get(TAG)  # stale
    assert requests(await scrape(client)) == {
        ("manifest", "miss", "200"): 1,
        ("manifest", "hit", "200"): 1,
        ("manifest", "revalidated", "200"): 1,
        ("manifest", "stale", "200"): 1,
        ("manifest", "negative", "404"): 1,
        ("manifest", "none", "404"): 1,
        ("manifest", "none", "502"): 1,
        ("blob", "miss", "200"): 3,
        ("blob", "hit", "200"): 3,
        ("tags", "bypass", "200"): 1,
        ("referrers", "miss", "200"): 1,
        ("search", "bypass", "200"): 1,
    }


async def test_who_joins_a_fetch_is_counted_as_coalesced(registry: TestRegistry, client: MirrorClient) -> None:
    registry.fail(Fault(action=Hang(), times=1))
    async with asyncio.TaskGroup() as group:
        _ = group.create_task(client.get_many(TAG, 10))
        await registry.until_held()
        registry.heal()
    counted = requests(await scrape(client))
    assert counted["manifest", "miss", "200"] + counted["manifest", "coalesced", "200"] == 10
    assert counted["manifest", "coalesced", "200"] == 9


async def test_bytes_are_those_of_the_bodies(client: MirrorClient) -> None:
    for _ in range(2):
        await pull(client)
    await client.head(TAG)
    await client.ask(f"/v2/{NAME}/blobs/{LAYER.digest}", headers={"Range": "bytes=0-99"})
    samples = await scrape(client)
    manifest, blobs = len(IMAGE.manifest), sum(one.size_bytes for one in IMAGE.blobs)

    def sent(kind: str, outcome: str) -> float | None:
        return value(samples, "mirror_response_bytes_total", kind=kind, outcome=outcome, **HUB)

    assert (sent("manifest", "miss"), sent("manifest", "hit")) == (manifest, manifest)
    assert (sent("blob", "miss"), sent("blob", "hit")) == (blobs, blobs + 100)
    assert value(samples, "mirror_upstream_bytes_total", kind="manifest", **HUB) == manifest
    assert value(samples, "mirror_upstream_bytes_total", kind="blob", **HUB) == blobs


async def test_the_time_to_the_first_byte_is_measured(client: MirrorClient) -> None:
    await pull(client)
    samples = await scrape(client)
    labels = {"kind": "blob", "outcome": "miss", **HUB}
    assert value(samples, "mirror_time_to_first_byte_seconds_count", **labels) == 3
    measured = value(samples, "mirror_time_to_first_byte_seconds_sum", **labels)
    assert measured is not None
    assert 0 < measured < 5


async def test_what_is_asked_of_an_upstream_is_counted(registry: TestRegistry, client: MirrorClient) -> None:
    registry.limit = RateLimit(limit=100, remaining=77)
    await pull(client)
    await client.get(f"/v2/{NAME}/manifests/none")
    samples = await scrape(client)

    def asked(**labels: str) -> float | None:
        return value(samples, "mirror_upstream_requests_total", **labels, **HUB)

    assert asked(kind="manifest", method="HEAD", code="200") == 1
    assert asked(kind="manifest", method="GET", code="200") == 1
    assert asked(kind="manifest", method="HEAD", code="404") == 1
    assert asked(kind="blob", method="GET", code="200") == 3
    assert value(samples, "mirror_upstream_request_seconds_count", kind="manifest", **HUB) == 3
    assert value(samples, "mirror_upstream_up", **HUB) == 1
    assert value(samples, "mirror_upstream_ratelimit_limit", **HUB) == 100
    assert value(samples, "mirror_upstream_ratelimit_remaining", **HUB) == 76


@pytest.mark.parametrize("is_gone", [True, False])
async def test_an_upstream_that_cannot_answer_is_down(
    registry: TestRegistry,
    client: MirrorClient,
    is_gone: bool,  # noqa: FBT001
) -> None:
    if is_gone:
        await registry.stop()
    else:
        registry.fail(Fault(action=Status(status=503)))
    await client.get(TAG)
    samples = await scrape(client)
    code = "error" if is_gone else "503"
    labels = {"kind": "manifest", "method": "HEAD", "code": code, **HUB}
    assert value(samples, "mirror_upstream_requests_total", **labels) == 1
    assert value(samples, "mirror_upstream_up", **HUB) == 0
    await registry.stop()
    registry.heal()
    await registry.start()
    await client.get(TAG)
    assert value(await scrape(client), "mirror_upstream_up", **HUB) == 1


async def test_an_answer_that_nobody_likes_is_no_outage(registry: TestRegistry, client: MirrorClient) -> None:
    await client.get(f"/v2/{NAME}/manifests/none")
    assert value(await scrape(client), "mirror_upstream_up", **HUB) == 1


async def test_downloads_are_counted_while_they_run_and_when_they_break(
    registry: TestRegistry, client: MirrorClient
) -> None:
    layer = blob(4_000_000, 5)
    registry.add_blob(NAME, layer)
    registry.fail(Fault(action=Cut(), kind="blob", times=1), Fault(action=Hang(), kind="blob", skip=1))
    async with asyncio.TaskGroup() as group:
        getting = group.create_task(client.get(f"/v2/{NAME}/blobs/{layer.digest}"))
        await registry.until_held()
        assert value(await scrape(client), "mirror_fills_in_progress") == 1
        registry.heal()
    assert getting.result().body == layer.content
    samples = await scrape_until(client, lambda samples: value(samples, "mirror_fills_in_progress") == 0)
    assert value(samples, "mirror_fill_resumes_total", **HUB) == 1


async def test_a_wrong_blob_is_counted(registry: TestRegistry, client: MirrorClient) -> None:
    await client.get(TAG)
    registry.fail(Fault(action=FlipByte(), kind="blob"))
    path = f"/v2/{NAME}/blobs/{LAYER.digest}"
    with pytest.raises(Exception, match="payload"):
        await client.get(path)
    assert value(await scrape(client), "mirror_digest_mismatches_total", **HUB) == 1


async def test_what_is_stored_is_counted(client: MirrorClient) -> None:
    await pull(client)
    stored = len(IMAGE.manifest) + sum(one.size_bytes for one in IMAGE.blobs)
    samples = await scrape_until(client, lambda samples: value(samples, "mirror_cache_bytes") == stored)
    assert value(samples, "mirror_cache_objects", kind="manifest") == 1
    assert value(samples, "mirror_cache_objects", kind="blob") == 3
    await pull(client)
    assert value(await scrape(client), "mirror_cache_bytes") == stored


async def test_distributions_names_have_distributions_meaning(client: MirrorClient) -> None:
    for _ in range(2):
        await pull(client)
    await client.get(f"/v2/{NAME}/manifests/none")
    await client.get(f"/v2/{NAME}/tags/list")
    samples = await scrape(client)
    blobs = sum(one.size_bytes for one in IMAGE.blobs)
    assert {
        (name.removeprefix("registry_proxy_"), dict(labels)["type"]): number
        for (name, labels), number in samples.items()
        if name.startswith("registry_proxy_") and not name.endswith("_created")
    } == {
        ("requests_total", "manifest"): 2,
        ("hits_total", "manifest"): 1,
        ("misses_total", "manifest"): 1,
        ("pulled_bytes_total", "manifest"): len(IMAGE.manifest),
        ("pushed_bytes_total", "manifest"): 2 * len(IMAGE.manifest),
        ("requests_total", "blob"): 6,
        ("hits_total", "blob"): 3,
        ("misses_total", "blob"): 3,
        ("pulled_bytes_total", "blob"): blobs,
        ("pushed_bytes_total", "blob"): 2 * blobs,
    }


async def test_counters_begin_at_nothing_rather_than_not_at_all(client: MirrorClient) -> None:
    samples = await scrape(client)
    for name in ("mirror_upstream_auth_failures_total", "mirror_fill_resumes_total", "mirror_digest_mismatches_total"):
        for upstream in ("docker.io", "ghcr.io", "quay.io"):
            assert value(samples, name, upstream=upstream) == 0
    assert value(samples, "mirror_fills_in_progress") == 0
    assert value(samples, "mirror_build_info", version=__version__) == 1
    assert value(samples, "registry_proxy_misses_total", type="blob") == 0


async def test_clients_make_no_series(registry: TestRegistry, client: MirrorClient) -> None:
    """A hundred names that nobody has, upstreams that are none, methods and paths out of thin air."""

    async def ask_all(number: int) -> None:
        await client.get(f"/v2/nobody/app{number}/manifests/tag{number}")
        await client.get(f"/v2/host{number}.example/app/manifests/1")
        await client.get(f"/v2/app/manifests/1?ns=host{number}.example")
        await client.get(f"/v2/app/blobs/sha256:{number:064x}")
        await client.get(f"/nowhere{number}")
        await client.ask(f"/v2/app{number}/manifests/1", method=f"X{number}", headers={"Host": f"host{number}.example"})

    await ask_all(0)
    await scrape(client)
    before = set(await scrape(client))
    for number in range(1, 100):
        await ask_all(number)
    after = set(await scrape(client))
    assert after == before


async def test_sums_over_all_labels_mean_something(client: MirrorClient) -> None:
    await pull(client)
    for path in ("/v2/", "/healthz", "/nowhere", "/v2/UPPER/tags/list"):
        await client.get(path)
    assert total(await scrape(client), "mirror_requests_total") == 8


def test_a_scrape_of_any_worker_answers_for_all() -> None:
    with RegistryProcess() as registry:
        registry.add(NAME, "latest", IMAGE)
        with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror:
            for _ in range(30):  # each on a connection of its own, which the kernel gives to either
                assert mirror.request(TAG).status == 200
            for _ in range(4):
                samples = parse(mirror.request("/metrics").body)
                assert sum(requests(samples).values()) == 30
                assert requests(samples)["manifest", "miss", "200"] == 1
                assert value(samples, "mirror_cache_objects", kind="manifest") == 1
                assert value(samples, "mirror_build_info", version=__version__) == 1
                assert {dict(labels).get("pid") for _, labels in samples} == {None}


# Logs


def served(logs: list[EventDict]) -> list[EventDict]:
    return [entry for entry in logs if entry["event"] == "request.served"]


async def test_a_request_is_one_line(client: MirrorClient) -> None:
    with capture_logs() as logs:
        answer = await client.get(TAG)
    (line,) = served(logs)
    duration_seconds = line.pop("duration_seconds")
    assert 0 < duration_seconds < 5
    assert line == {
        "event": "request.served",
        "log_level": "info",
        "request_id": answer.headers["X-Request-Id"],
        "client": "127.0.0.1",
        "method": "GET",
        "upstream": "docker.io",
        "repository": NAME,
        "reference": "latest",
        "kind": "manifest",
        "outcome": "miss",
        "status": 200,
        "bytes_sent": len(IMAGE.manifest),
    }


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        (f"/v2/{NAME}/manifests/none", 404, "docker.io answered 404"),
        ("/v2/evil.example/app/manifests/1", 404, "evil.example"),
        ("/v2/UPPER/manifests/1", 400, "UPPER"),
        ("/nowhere", 404, "/nowhere"),
    ],
)
async def test_a_refusal_says_why(client: MirrorClient, path: str, status: int, error: str) -> None:
    with capture_logs() as logs:
        await client.get(path)
    (line,) = served(logs)
    assert line["status"] == status
    assert error in line["error"]


async def test_everything_else_about_a_pull_is_for_debugging(registry: TestRegistry, client: MirrorClient) -> None:
    with capture_logs() as logs:
        await pull(client)
        await pull(client)
    assert {entry["log_level"] for entry in logs if entry["event"] != "request.served"} <= {"debug"}


async def test_what_an_operator_acts_on_is_a_warning(registry: TestRegistry, client: MirrorClient) -> None:
    await client.get(TAG)
    registry.fail(Fault(action=Status(status=429, headers={"Retry-After": "30"})))
    client.mirror.clock.advance(61)
    with capture_logs() as logs:
        await client.get(TAG)
    warnings = {entry["event"]: entry for entry in logs if entry["log_level"] == "warning"}
    assert set(warnings) == {"upstream.rate_limited", "tag.served_stale"}
    assert warnings["upstream.rate_limited"]["retry_after_seconds"] == 30
    assert warnings["tag.served_stale"]["repository"] == NAME


def test_a_process_logs_json_and_no_secret_at_its_most_talkative(tmp_path: Path) -> None:
    secret, clients_secret = "hub-pass:word%1", "Y2xpZW50OnNlY3JldA=="
    (tmp_path / "password").write_text(secret, encoding="utf-8")
    credential = f'username = "robot"\npassword_file = "{tmp_path / "password"}"\n[log]\nlevel = "debug"\n'
    with RegistryProcess(
        settings={"auth": "bearer", "users": {"robot": secret}, "private": {NAME: ["robot"]}}
    ) as registry:
        registry.add(NAME, "latest", IMAGE)
        registry.fail(Fault(action=Status(status=503), kind="blob", times=1))
        with MirrorProcess({"docker.io": registry.base_url}, extra=credential) as mirror:
            for path in (TAG, f"/v2/{NAME}/blobs/{LAYER.digest}", "/v2/none/x/manifests/1"):
                mirror.request(path, headers={"Authorization": f"Basic {clients_secret}"})
            registry.revoke_all()
            mirror.request(f"/v2/{NAME}/tags/list?token={clients_secret}")
            mirror.stop()
            text = mirror.log_path.read_text(encoding="utf-8")
        sent = {request.headers.get("Authorization", "") for request in registry.requests + registry.token_requests}
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["event"] for line in lines} >= {"server.started", "request.served", "server.stopped"}
    assert all(line["timestamp"].endswith("Z") and line["level"] for line in lines)
    for hidden in (secret, clients_secret, *(value.partition(" ")[2] for value in sent if value)):
        assert hidden not in text


async def test_metrics_of_two_mirrors_in_one_process_are_two(registry: TestRegistry, start_mirror: StartMirror) -> None:
    first, second = await start_mirror(registry.base_url), await start_mirror(registry.base_url)
    await first.get(TAG)
    assert isinstance(first.mirror.metrics, CollectorRegistry)
    assert requests(await scrape(second)) == {}
