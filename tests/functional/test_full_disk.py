"""A disk that is full or read-only slows, and never stops: what does not fit goes through memory. Needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.functional.test_processes import path_of, peak_megabytes, pull
from tests.support.faults import Chunked, Cut, Fault, Slow
from tests.support.images import blob, oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.waiting import wait_until

NAME = "library/app"
DISK_MEGABYTES = 24
LARGE = blob(40_000_000, 91)
HIT = "mirror; hit"
UNSTORED = "mirror; fwd=bypass"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        started.add_blob(NAME, LARGE)
        yield started


@pytest.fixture(autouse=True)
def _clean(registry: RegistryProcess) -> Iterator[None]:
    yield
    registry.heal()
    registry.reset_record()


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "cache").mkdir()
    with mounted(tmp_path / "cache", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs"):
        yield tmp_path


def mirror_of(registry: RegistryProcess, folder: Path, *, workers: int = 1, min_free: str = "0") -> MirrorProcess:
    extra = f'[cache]\nmin_free = "{min_free}"\n'
    return MirrorProcess({"docker.io": registry.base_url}, folder=folder, workers=workers, extra=extra)


def unstored(mirror: MirrorProcess) -> list[object]:
    return [event["error"] for event in mirror.events() if event["event"] == "download.unstored"]


def is_at_rest(mirror: MirrorProcess) -> bool:
    """Say whether nothing is in progress, and nothing of it left."""
    return not list((mirror.cache_folder / "partial").iterdir())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("is_told", [True, False], ids=["size known", "size unknown"])
def test_a_blob_larger_than_the_disk_is_sent_to_all_and_small_images_are_cached(
    registry: RegistryProcess, small_disk: Path, *, workers: int, is_told: bool
) -> None:
    """Of unknown size it fills the disk first, and goes on through memory from there."""
    image = oci_image(90, layers=2, layer_bytes=500_000)
    registry.add(NAME, "small", image)
    with mirror_of(registry, small_disk, workers=workers) as mirror, ThreadPoolExecutor(4) as pool:
        assert pull(mirror, image)
        if not is_told:
            registry.fail(Fault(action=Chunked(), kind="blob"))
        answers = list(pool.map(lambda _: mirror.request(path_of(LARGE)), range(4)))
        assert all(answer.body == LARGE.content for answer in answers)
        assert unstored(mirror)
        registry.heal()
        wait_until(lambda: is_at_rest(mirror))
        assert pull(mirror, image)
        wait_until(lambda: mirror.request(path_of(image.config)).cache_status == HIT)
        assert mirror.request("/readyz").status == 200
        assert all(peak_megabytes(pid) < 250 for pid in mirror.worker_pids)


def test_a_transfer_that_breaks_is_gone_on_with_in_memory(registry: RegistryProcess, small_disk: Path) -> None:
    with mirror_of(registry, small_disk) as mirror:
        registry.fail(Fault(action=Cut(fraction=0.7), kind="blob", times=1))
        answer = mirror.request(path_of(LARGE))
        assert answer.body == LARGE.content
        assert answer.cache_status == UNSTORED
    assert registry.bytes_sent("blob", reference=LARGE.digest) < 1.2 * LARGE.size_bytes


def test_a_slow_client_holds_a_window_and_who_comes_later_gets_a_transfer_of_its_own(
    registry: RegistryProcess, small_disk: Path
) -> None:
    with mirror_of(registry, small_disk) as mirror, ExitStack() as stack:
        connection = HTTPConnection("127.0.0.1", mirror.port, timeout=30)
        stack.callback(connection.close)
        connection.request("GET", path_of(LARGE))
        slow = connection.getresponse()
        taken = slow.read(20_000_000)
        assert mirror.request(path_of(LARGE)).body == LARGE.content
        assert peak_megabytes(mirror.pid) < 250
        assert taken + slow.read() == LARGE.content


def test_a_client_that_leaves_ends_what_is_not_stored(registry: RegistryProcess, small_disk: Path) -> None:
    registry.fail(Fault(action=Slow(bytes_per_second=20_000_000), kind="blob"))
    with mirror_of(registry, small_disk) as mirror:
        connection = HTTPConnection("127.0.0.1", mirror.port, timeout=30)
        connection.request("GET", path_of(LARGE))
        connection.getresponse().read(1000)
        connection.close()
        mirror.settle()
        assert is_at_rest(mirror)


def test_a_bound_that_cannot_be_kept_is_said_and_gone_over_when_it_can(
    registry: RegistryProcess, small_disk: Path
) -> None:
    image = oci_image(92, layers=1, layer_bytes=500_000)
    registry.add(NAME, "bound", image)
    with mirror_of(registry, small_disk, min_free="10MB") as mirror:
        other = small_disk / "cache" / "of-another-program"
        other.write_bytes(bytes(18_000_000))
        wait_until(lambda: mirror.request("/readyz").status == 503)
        assert mirror.request("/readyz").body.startswith(b"there is no room in the cache")
        assert mirror.request(path_of(image.layers[0])).cache_status == UNSTORED
        assert pull(mirror, image)
        other.unlink()
        wait_until(lambda: mirror.request("/readyz").status == 200)
        assert pull(mirror, image)
        wait_until(lambda: mirror.request(path_of(image.layers[0])).cache_status == HIT)


def test_a_store_that_becomes_read_only_under_load_serves_on_and_recovers(
    registry: RegistryProcess, tmp_path: Path
) -> None:
    stored, new = oci_image(93, layers=1, layer_bytes=500_000), oci_image(94, layers=3, layer_bytes=3_000_000)
    registry.add(NAME, "stored", stored)
    registry.add(NAME, "new", new)
    with mirror_of(registry, tmp_path) as mirror, ThreadPoolExecutor(4) as pool:
        assert pull(mirror, stored)
        wait_until(lambda: is_at_rest(mirror))  # under their names: a rename is not possible any more then
        folder = mirror.cache_folder / "partial"
        loading = [pool.submit(pull, mirror, stored) for _ in range(20)]
        with mounted(folder, "--bind", "-o", "ro", str(folder)):
            assert mirror.request("/readyz").status == 503
            assert all(answer.result() for answer in loading)
            assert all(pool.map(lambda _: pull(mirror, new), range(4)))
            assert mirror.request(path_of(stored.layers[0])).cache_status == HIT
            assert unstored(mirror)
        wait_until(lambda: mirror.request("/readyz").status == 200)
        assert pull(mirror, new)
        wait_until(lambda: mirror.request(path_of(new.layers[0])).cache_status == HIT)
