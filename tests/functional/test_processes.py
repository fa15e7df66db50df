"""`mirror serve` as processes: workers that share one cache, restarts, kills, draining, memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path

import pytest

from tests.support.faults import Fault, Silence, Slow
from tests.support.images import Blob, Image, blob, oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.waiting import wait_until

NAME = "library/app"
CLIENTS = 40
HIT = "mirror; hit"


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        yield started


@pytest.fixture(autouse=True)
def _clean(registry: RegistryProcess) -> Iterator[None]:
    yield
    registry.heal()
    registry.reset_record()


def path_of(part: Blob) -> str:
    return f"/v2/{NAME}/blobs/{part.digest}"


@contextmanager
def begun(mirror: MirrorProcess, path: str) -> Iterator[HTTPResponse]:
    """Ask, and leave the body to be read."""
    connection = HTTPConnection("127.0.0.1", mirror.port, timeout=30)
    connection.request("GET", path)
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def pull(mirror: MirrorProcess, image: Image) -> bool:
    """Pull as a client does, each part on a connection of its own; return whether every byte was right."""
    manifest = mirror.request(f"/v2/{NAME}/manifests/{image.digest}")
    parts = [mirror.request(path_of(part)) for part in image.blobs]
    return manifest.body == image.manifest and [answer.body for answer in parts] == [
        part.content for part in image.blobs
    ]


def peak_megabytes(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("workers", [1, 2])
def test_forty_clients_at_once_cost_one_fetch_of_each_part(registry: RegistryProcess, workers: int) -> None:
    image = oci_image(40 + workers, layers=3, layer_bytes=1_000_000)
    registry.add(NAME, str(workers), image)
    with (
        MirrorProcess({"docker.io": registry.base_url}, workers=workers) as mirror,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):

        def one(_: int) -> bool:
            return mirror.request(f"/v2/{NAME}/manifests/{workers}", method="HEAD").status == 200 and pull(
                mirror, image
            )

        assert all(pool.map(one, range(CLIENTS)))
        served = Counter(event["pid"] for event in mirror.events() if event["event"] == "request.served")
    fetched = Counter(request.reference for request in registry.requests if request.method == "GET")
    assert fetched == Counter([image.digest, *(part.digest for part in image.blobs)])
    assert len(served) == workers


def test_a_client_of_another_worker_follows_the_growing_file(registry: RegistryProcess) -> None:
    part = blob(5_000_000, 51)
    registry.add_blob(NAME, part)
    registry.fail(Fault(action=Silence(fraction=0.5), kind="blob", times=1))
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(mirror.request, path_of(part)) for _ in range(8)]
        registry.until_held()
        wait_until(lambda: served_by_workers(mirror, path_of(part)) == 2)
        registry.release()
        assert all(answer.result().body == part.content for answer in waiting)
    assert registry.bytes_sent("blob", reference=part.digest) == part.size_bytes


def served_by_workers(mirror: MirrorProcess, path: str) -> int:
    """Make requests of the first byte until both workers have answered one; return how many have."""
    connection = HTTPConnection("127.0.0.1", mirror.port, timeout=30)
    connection.request("GET", path, headers={"Range": "bytes=0-0"})
    assert connection.getresponse().read()
    connection.close()
    events = [event for event in mirror.events() if event.get("status") == 206]
    return len({event["pid"] for event in events})


def test_a_worker_that_dies_is_replaced_and_its_download_goes_on_in_another(registry: RegistryProcess) -> None:
    part = blob(20_000_000, 52)
    registry.add_blob(NAME, part)
    registry.fail(Fault(action=Slow(bytes_per_second=10_000_000), kind="blob", method="GET", times=1))
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror, ThreadPoolExecutor(8) as pool:
        wait_until(lambda: len(mirror.worker_pids) == 2)
        before = set(mirror.worker_pids)
        waiting = [pool.submit(mirror.request, path_of(part)) for _ in range(8)]
        partial = mirror.cache_folder / "partial" / part.digest.replace(":", "-")
        wait_until(lambda: partial.exists() and partial.stat().st_size > 5_000_000)
        writer = next(pid for pid in before if holds_lock(pid, partial))
        os.kill(writer, signal.SIGKILL)
        results = [answer.exception() or answer.result() for answer in waiting]
        whole = [answer for answer in results if not isinstance(answer, BaseException)]
        assert whole  # those of the other worker
        assert all(answer.body == part.content for answer in whole)
        assert all(isinstance(answer, (IncompleteRead, OSError)) for answer in results if answer not in whole)
        wait_until(lambda: len(set(mirror.worker_pids) - before) == 1)
        assert all(mirror.request(path_of(part)).cache_status == HIT for _ in range(8))
    assert registry.bytes_sent("blob", reference=part.digest) < 1.2 * part.size_bytes


def holds_lock(pid: int, path: Path) -> bool:
    inode = str(path.stat().st_ino)
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(lock[1] == "FLOCK" and lock[4] == str(pid) and lock[5].endswith(f":{inode}") for lock in locks)


def test_one_scrape_answers_for_all_workers(registry: RegistryProcess) -> None:
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror:
        for _ in range(20):
            assert mirror.request("/v2/").status == 200
        for _ in range(4):
            text = mirror.request("/metrics").body.decode()
            line = next(line for line in text.splitlines() if line.startswith("mirror_requests_total") and "2" in line)
            count = sum(
                float(line.rsplit(" ", 1)[1])
                for line in text.splitlines()
                if line.startswith("mirror_requests_total") and 'kind="other"' in line
            )
            assert count >= 20, line


@pytest.mark.parametrize("workers", [1, 2])
def test_a_kill_loses_nothing_and_the_next_start_goes_on(registry: RegistryProcess, workers: int) -> None:
    stored, half = blob(100_000, 53 + workers), blob(20_000_000, 63 + workers)
    registry.add_blob(NAME, stored)
    registry.add_blob(NAME, half)
    with MirrorProcess({"docker.io": registry.base_url}, workers=workers) as mirror:
        assert mirror.request(path_of(stored)).body == stored.content
        wait_until(lambda: mirror.request(path_of(stored)).cache_status == HIT)
        registry.fail(Fault(action=Slow(bytes_per_second=10_000_000), path=half.digest, times=1))
        partial = mirror.cache_folder / "partial" / half.digest.replace(":", "-")
        with begun(mirror, path_of(half)) as answer:
            answer.read(half.size_bytes // 2)
            mirror.kill()
        assert partial.stat().st_size >= half.size_bytes // 2
        mirror.start()
        assert mirror.request(path_of(stored)).cache_status == HIT
        assert mirror.request(path_of(half)).body == half.content
        wait_until(lambda: not list(partial.parent.iterdir()))
    assert registry.bytes_sent("blob", reference=half.digest) < 1.2 * half.size_bytes


@pytest.mark.parametrize("workers", [1, 2])
def test_termination_lets_running_transfers_end_whole(registry: RegistryProcess, workers: int) -> None:
    part = blob(10_000_000, 55 + workers)
    registry.add_blob(NAME, part)
    registry.fail(Fault(action=Slow(bytes_per_second=10_000_000), path=part.digest))
    with MirrorProcess({"docker.io": registry.base_url}, workers=workers) as mirror:
        with begun(mirror, path_of(part)) as answer:
            begin = answer.read(1_000_000)
            process = mirror.terminate()
            wait_until(lambda: refuses(mirror.port))
            assert begin + answer.read() == part.content
        assert process.wait(15) == 0


def test_nothing_of_killed_servers_and_workers_is_left_among_temporary_files(
    registry: RegistryProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "server"
    folder.mkdir()
    with MirrorProcess({"docker.io": registry.base_url}, workers=2, folder=folder) as mirror:
        for _ in range(2):
            mirror.kill()
            mirror.start()
        wait_until(lambda: b"mirror_workers 2.0" in mirror.request("/metrics").body)
        (metrics,) = tmp_path.glob("mirror-workers-*")
        for _ in range(3):
            kill_one(mirror)
            wait_until(lambda: b"mirror_workers 2.0" in mirror.request("/metrics").body)
        assert {path.name.rpartition("_")[2] for path in metrics.iterdir()} == {"0.db", "1.db"}
    assert not list(tmp_path.glob("mirror-workers-*"))


def kill_one(mirror: MirrorProcess) -> None:
    killed = mirror.worker_pids[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in mirror.worker_pids)


def test_workers_do_not_outlive_their_supervisor(registry: RegistryProcess) -> None:
    with MirrorProcess({"docker.io": registry.base_url}, workers=2) as mirror:
        os.kill(mirror.pid, signal.SIGKILL)
        wait_until(lambda: refuses(mirror.port))


def refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_termination_gives_up_after_the_grace(registry: RegistryProcess) -> None:
    part = blob(10_000_000, 58)
    registry.add_blob(NAME, part)
    registry.fail(Fault(action=Silence(fraction=0.5), path=part.digest))
    extra = '[server]\nshutdown_grace = "0.5s"\n'
    with (
        MirrorProcess({"docker.io": registry.base_url}, extra=extra) as mirror,
        begun(mirror, path_of(part)) as answer,
    ):
        answer.read(1_000_000)
        assert mirror.terminate().wait(15) == 0


def test_memory_stays_small_while_eight_clients_take_one_cold_large_blob(registry: RegistryProcess) -> None:
    part = blob(400_000_000, 57)
    registry.add_blob(NAME, part)
    with MirrorProcess({"docker.io": registry.base_url}) as mirror:
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", mirror.base_url + path_of(part)]
        clients = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(8)]
        assert [int(client.communicate()[0]) for client in clients] == [part.size_bytes] * 8
        assert peak_megabytes(mirror.pid) < 120
    # one fetch; a transfer that a starved machine breaks sends what was on its way once more
    assert part.size_bytes <= registry.bytes_sent("blob", reference=part.digest) < 1.5 * part.size_bytes


def test_a_port_that_is_taken_is_said_in_one_line(registry: RegistryProcess) -> None:
    with MirrorProcess({"docker.io": registry.base_url}) as mirror:
        for workers in ("1", "2"):
            command = [sys.executable, "-m", "mirror", "serve", "--listen", mirror.host, "--workers", workers]
            command += ["--cache-dir", str(mirror.folder / "other")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1
            assert mirror.host in done.stderr
