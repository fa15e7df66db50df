"""The figures of several workers under load, after one has died and after a restart, beside what really happened."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror.config import load
from mirror.http.cache_status import Outcome
from mirror.oci.requests import Kind
from tests.functional.test_metrics import Samples, parse, total
from tests.support.images import oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.waiting import wait_until

NAME = "library/app"
IMAGES = [oci_image(800 + number, layers=2, layer_bytes=50_000) for number in range(8)]
PATHS = [
    *(f"/v2/{NAME}/manifests/{number}" for number in range(len(IMAGES))),
    *(f"/v2/{NAME}/blobs/{part.digest}" for image in IMAGES for part in image.blobs),
]
BUILT_IN = list(load(path=None, environ={}, overrides={}).upstreams)
HUB = frozenset({("upstream", "docker.io")})
VALUES = {
    "upstream": "|".join([*BUILT_IN, "none"]),
    "kind": "|".join(Kind),
    "outcome": "|".join([*Outcome, "none"]),
    "code": "[1-5][0-9][0-9]|error",
    "method": "GET|HEAD",
    "type": "blob|manifest",
    "reason": "size|space",
    "version": r"[0-9.]+\w*",
    "le": r"[0-9.e+-]+|\+Inf",
}


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        for number, image in enumerate(IMAGES):
            started.add(NAME, str(number), image)
        yield started


def scrape(mirror: MirrorProcess) -> Samples:
    return parse(mirror.request("/metrics").body)


def of_hub(samples: Samples, name: str) -> float:
    return sum(value for (found, labels), value in samples.items() if found == name and labels >= HUB)


def scraped(mirror: MirrorProcess, condition: Callable[[Samples], bool]) -> Samples:
    """Scrape until something is true: a client has its last byte before that is counted."""
    wait_until(lambda: condition(scrape(mirror)))
    return scrape(mirror)


def test_the_figures_are_what_happened_also_when_a_worker_dies_and_after_a_restart(registry: RegistryProcess) -> None:
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(mirror.request, PATHS * 6))
        assert {answer.status for answer in answers} == {200}
        mirror.settle()
        asked, sent = len(answers), sum(len(answer.body) for answer in answers)
        samples = scraped(mirror, lambda found: of_hub(found, "mirror_requests_total") == asked)
        assert of_hub(samples, "mirror_response_bytes_total") == sent
        assert of_hub(samples, "mirror_time_to_first_byte_seconds_count") == asked
        assert total(samples, "registry_proxy_requests_total") == asked
        assert of_hub(samples, "mirror_upstream_requests_total") == len(registry.requests)
        assert of_hub(samples, "mirror_upstream_request_seconds_count") == len(registry.requests)
        assert of_hub(samples, "mirror_upstream_bytes_total") == registry.bytes_sent("blob") + registry.bytes_sent(
            "manifest"
        )
        assert total(samples, "mirror_fills_in_progress") == 0
        assert total(samples, "mirror_workers") == 2

        os.kill(mirror.worker_pids[0], signal.SIGKILL)
        wait_until(lambda: any(event["event"] == "worker.died" for event in mirror.events()))
        after = scraped(mirror, lambda found: total(found, "mirror_workers") == 2)
        for name in ("mirror_requests_total", "mirror_response_bytes_total", "mirror_upstream_bytes_total"):
            assert of_hub(after, name) == of_hub(samples, name)

        mirror.stop()
        mirror.start()
        anew = scraped(mirror, lambda found: total(found, "mirror_workers") == 2)
        assert of_hub(anew, "mirror_requests_total") == 0
        stored = sum(len(image.manifest) + sum(part.size_bytes for part in image.blobs) for image in IMAGES)
        assert total(anew, "mirror_cache_bytes") == total(after, "mirror_cache_bytes") == stored
        assert total(anew, "mirror_cache_objects") == len(PATHS)


def test_no_label_ever_has_a_value_of_a_clients(registry: RegistryProcess) -> None:
    hostile = ("x" * 200, "a%0Ab", "%22%7Din", "..", "Ünder".encode().hex(), "docker.io%20", "sha256:" + "0" * 64)
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror:
        for word in hostile:
            for path in (f"/v2/{word}/manifests/{word}", f"/{word}/v2/app/manifests/1", f"/v2/app/blobs/{word}"):
                mirror.request(path)
                mirror.request(f"{path}?ns={word}", headers={"Host": word, "User-Agent": word, "X-Request-Id": word})
            mirror.request(f"/v2/app/manifests/{word}", method="ODD")
        samples = scrape(mirror)
    assert of_hub(samples, "mirror_requests_total") > 0
    for name, labels in samples:
        for label, value in labels:
            assert label in VALUES, name
            assert re.fullmatch(VALUES[label], value), (name, label, value)
