"""The mirror at a glance: the figures of all workers, over kills and restarts, beside what really happened."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.functional.test_metrics import parse, total
from tests.support.commands import ask
from tests.support.faults import Fault, Silence, Status
from tests.support.images import blob, oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.waiting import wait_until

NAME = "library/app"
IMAGES = [oci_image(700 + number, layers=2, layer_bytes=50_000) for number in range(4)]
LARGE = blob(1_000_000, 710)
MANIFESTS = [f"/v2/{NAME}/manifests/{number}" for number in range(len(IMAGES))]
BLOBS = [f"/v2/{NAME}/blobs/{part.digest}" for image in IMAGES for part in image.blobs]
ROUNDS = 3
STORED = {"hit", "revalidated", "stale"}
Overview = dict[str, Any]


@pytest.fixture
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        for number, image in enumerate(IMAGES):
            started.add(NAME, str(number), image)
        started.add_blob(NAME, LARGE)
        yield started


@pytest.fixture
def mirror(registry: RegistryProcess) -> Iterator[MirrorProcess]:
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as started:
        yield started


def look(mirror: MirrorProcess) -> Overview:
    answer = mirror.request("/api/v1/overview")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    shown: Overview = json.loads(answer.body)
    return shown


def seen(mirror: MirrorProcess, condition: Callable[[Overview], bool]) -> Overview:
    """Look until something is true: the other worker tells once a second."""
    wait_until(lambda: condition(look(mirror)))
    return look(mirror)


def exported(mirror: MirrorProcess) -> dict[str, int]:
    """Return what ``/metrics`` says of the same things."""
    samples = parse(mirror.request("/metrics").body)

    def of_pulls(name: str, outcomes: set[str] | None = None) -> int:
        found = [(dict(labels), value) for (one, labels), value in samples.items() if one == name]
        pulls = [(labels, value) for labels, value in found if labels["kind"] in {"manifest", "blob"}]
        return int(sum(value for labels, value in pulls if outcomes is None or labels["outcome"] in outcomes))

    return {
        "requests": of_pulls("mirror_requests_total", STORED | {"miss", "coalesced"}),
        "hits": of_pulls("mirror_requests_total", STORED),
        "sent_bytes": of_pulls("mirror_response_bytes_total"),
        "hit_bytes": of_pulls("mirror_response_bytes_total", STORED),
        "fetched_bytes": of_pulls("mirror_upstream_bytes_total"),
    }


def only(traffic: dict[str, Any], like: dict[str, int]) -> dict[str, int]:
    return {name: traffic[name] for name in like}


def put_load_on(mirror: MirrorProcess) -> tuple[int, int]:
    """Ask for everything, from both workers; return how many answers and bytes came."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(mirror.request, (MANIFESTS + BLOBS) * ROUNDS))
    assert {answer.status for answer in answers} == {200}
    return len(answers), sum(len(answer.body) for answer in answers)


def fetched(registry: RegistryProcess) -> int:
    return registry.bytes_sent("manifest") + registry.bytes_sent("blob")


def test_page_metrics_and_the_registrys_record_agree_with_two_workers_and_over_restarts(
    registry: RegistryProcess, mirror: MirrorProcess
) -> None:
    asked, sent = put_load_on(mirror)
    shown = seen(mirror, lambda it: it["life"]["requests"] == asked)
    assert only(shown["life"], exported(mirror)) == only(shown["today"], exported(mirror)) == exported(mirror)
    assert (shown["life"]["sent_bytes"], shown["life"]["fetched_bytes"]) == (sent, fetched(registry))
    assert shown["life"]["saved_bytes"] == sent - fetched(registry)
    assert shown["workers"] == 2
    assert only(of_status(mirror)["life"], exported(mirror)) == exported(mirror)

    os.kill(mirror.worker_pids[0], signal.SIGKILL)  # it has told what it counted
    wait_until(lambda: any(event["event"] == "worker.died" for event in mirror.events()))
    again, more = put_load_on(mirror)
    shown = seen(mirror, lambda it: it["life"]["requests"] == asked + again and it["workers"] == 2)
    assert only(shown["life"], exported(mirror)) == exported(mirror)

    before = shown["life"]
    mirror.kill()
    mirror.start()
    assert look(mirror)["life"] == before
    put_load_on(mirror)
    wait_until(lambda: exported(mirror)["requests"] == asked)
    mirror.stop()  # tells what it has counted since
    mirror.start()
    shown = look(mirror)
    assert shown["life"]["requests"] == 3 * asked
    assert (shown["life"]["sent_bytes"], shown["life"]["fetched_bytes"]) == (sent + 2 * more, fetched(registry))
    assert shown["since"] < shown["at"]
    for spans in ("minutes", "hours"):
        assert sum(span["requests"] for span in shown[spans]) == 3 * asked

    (app,) = shown["most_pulled"]
    assert app == {
        "repository": f"docker.io/{NAME}",
        "pulls": 3 * ROUNDS * len(MANIFESTS),
        "sent_bytes": sent + 2 * more,
    }
    stored = sum(len(image.manifest) + sum(part.size_bytes for part in image.blobs) for image in IMAGES)
    assert shown["largest"] == [{"repository": f"docker.io/{NAME}", "size_bytes": stored}]
    assert shown["stored"]["size_bytes"] == stored == int(of_cache(mirror))


def of_status(mirror: MirrorProcess) -> Overview:
    """Return the same as the command's."""
    shown: Overview = ask(mirror, "status", "--json").result["server"]["overview"]
    return shown


def of_cache(mirror: MirrorProcess) -> float:
    return total(parse(mirror.request("/metrics").body), "mirror_cache_bytes")


def test_a_download_that_both_workers_wait_for_is_shown_once_with_all_its_followers(
    registry: RegistryProcess, mirror: MirrorProcess
) -> None:
    registry.fail(Fault(action=Silence(fraction=0.5), path=LARGE.digest, times=1))
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(mirror.request, f"/v2/{NAME}/blobs/{LARGE.digest}") for _ in range(8)]
        shown = seen(
            mirror,
            lambda it: [(one["followers"], one["done_bytes"] > 400_000) for one in it["downloads"]] == [(8, True)],
        )
        (download,) = shown["downloads"]
        assert download["repository"] == f"docker.io/{NAME}"
        assert (download["digest"], download["size_bytes"]) == (LARGE.digest, LARGE.size_bytes)
        assert download["done_bytes"] < LARGE.size_bytes
        registry.release()
        assert {one.result().body for one in waiting} == {LARGE.content}
    seen(mirror, lambda it: it["downloads"] == [])


def test_every_worker_tells_what_the_one_knows_that_asked_an_upstream(
    registry: RegistryProcess, mirror: MirrorProcess
) -> None:
    def states() -> set[bool | None]:
        return {one["is_up"] for one in look(mirror)["upstreams"] if one["name"] == "docker.io"}

    assert states() == {None}
    assert mirror.request(MANIFESTS[0]).status == 200
    wait_until(lambda: all(states() == {True} for _ in range(8)))
    registry.kill()
    assert mirror.request(MANIFESTS[1]).status in {502, 503, 504}
    wait_until(lambda: all(states() == {False} for _ in range(8)))


def test_what_goes_wrong_is_shown_once_with_how_often_it_happened(
    registry: RegistryProcess, mirror: MirrorProcess
) -> None:
    registry.fail(Fault(action=Status(status=500)))
    for _ in range(3):
        assert mirror.request(MANIFESTS[0]).status == 502
    shown = seen(mirror, lambda it: it["life"]["failures"] == 3)
    problems = [one for one in shown["problems"] if one["event"] == "answer.failed"]
    assert sum(one["times"] for one in problems) == 3
    assert all(f"upstream docker.io, repository {NAME}, error " in one["facts"] for one in problems)
    assert mirror.request(f"/v2/{NAME}/manifests/nowhere", headers={"Authorization": "Basic c2VjcmV0"}).status != 200
    assert mirror.request("/v2/UPPER/manifests/1").status == 400
    shown = look(mirror)
    assert "UPPER" not in json.dumps(shown)
    assert "c2VjcmV0" not in json.dumps(shown)


def test_figures_that_cannot_be_read_are_put_aside_and_nothing_else_suffers(mirror: MirrorProcess) -> None:
    assert mirror.request(MANIFESTS[0]).status == 200
    mirror.stop()
    for path in mirror.cache_folder.glob("figures.db*"):
        path.write_bytes(b"no database" * 1000)
    mirror.start()
    assert mirror.request(MANIFESTS[0]).status == 200
    assert look(mirror)["stored"]["size_bytes"] == len(IMAGES[0].manifest)
    wait_until(lambda: look(mirror)["life"]["requests"] == 1)
    assert list(mirror.cache_folder.glob("figures.db.damaged-*"))
