"""SIGHUP: a changed configuration is taken up whole or not at all, and no transfer notices."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import pytest

from tests.functional.test_processes import NAME, begun, path_of
from tests.support.commands import ask
from tests.support.faults import Fault, Slow
from tests.support.images import Blob, blob, oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.waiting import wait_until

_OTHER = "ghcr.io"


@pytest.fixture
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        yield started


@pytest.fixture(params=[1, 2], ids=["1-worker", "2-workers"])
def mirror(request: pytest.FixtureRequest, registry: RegistryProcess) -> Iterator[MirrorProcess]:
    with MirrorProcess({"docker.io": registry.base_url, _OTHER: registry.base_url}, workers=request.param) as process:
        yield process


def reload(mirror: MirrorProcess, *, extra: str = "", text: str | None = None) -> None:
    """Change the file, and send SIGHUP."""
    wait_until(lambda: len(mirror.worker_pids) == mirror.workers)
    path = mirror.folder / "mirror.toml"
    path.write_text(path.read_text() + extra if text is None else text)
    os.kill(mirror.pid, signal.SIGHUP)


def slow_blob(registry: RegistryProcess, size_bytes: int) -> Blob:
    """Add a blob whose first transfer takes a second for each megabyte."""
    part = blob(size_bytes)
    registry.add_blob(NAME, part)
    registry.fail(Fault(action=Slow(bytes_per_second=1_000_000), kind="blob", times=1))
    return part


def events(mirror: MirrorProcess, name: str) -> list[dict[str, object]]:
    return [event for event in mirror.events() if event["event"] == name]


def wait_for(mirror: MirrorProcess, name: str, count: int) -> list[dict[str, object]]:
    wait_until(lambda: len(events(mirror, name)) >= count)
    return events(mirror, name)


def test_a_changed_configuration_is_taken_up_by_every_worker(mirror: MirrorProcess, registry: RegistryProcess) -> None:
    registry.add("owner/app", "1", oci_image(1))
    path = f"/v2/{_OTHER}/owner/app/manifests/1"
    assert mirror.request(path).status == 200
    reload(mirror, extra='deny = ["owner/*"]\n[cache]\nmax_size = "1GiB"\n')
    taken_up = wait_for(mirror, "config.reloaded", mirror.workers + (mirror.workers > 1))
    assert {tuple(event["changed"]) for event in taken_up} == {  # type: ignore[arg-type]  # JSON
        ("cache.max_size", f'upstreams."{_OTHER}".deny')
    }
    wait_until(lambda: {mirror.request(path).status for _ in range(20)} == {403})
    assert "mirror_cache_limit_bytes 1.073741824e+09" in mirror.request("/metrics").body.decode()


def test_a_running_transfer_and_a_running_download_go_on(mirror: MirrorProcess, registry: RegistryProcess) -> None:
    part = slow_blob(registry, 3_000_000)
    with begun(mirror, path_of(part)) as response:
        first = response.read(1000)
        reload(mirror, extra='[cache]\nnegative_ttl = "1s"\n')
        wait_for(mirror, "config.reloaded", mirror.workers)
        assert mirror.request("/healthz").status == 200
        assert first + response.read() == part.content
    assert mirror.request(path_of(part)).body == part.content
    assert registry.bytes_sent("blob", reference=part.digest) == part.size_bytes


def test_no_request_fails_while_it_is_reloaded_again_and_again(
    mirror: MirrorProcess, registry: RegistryProcess
) -> None:
    part = blob(1000, 4)
    registry.add_blob(NAME, part)
    assert mirror.request(path_of(part)).status == 200
    for number in range(10):
        reload(mirror, extra="", text=(mirror.folder / "mirror.toml").read_text() + f"# {number}\n")
        for _ in range(20):
            assert mirror.request(path_of(part)).body == part.content
    wait_for(mirror, "config.reloaded", 10)


@pytest.mark.parametrize(
    "text", ["[cache]\nmax_sise = 1\n", "[[\n", '[server]\ntls_certificate = "gone"\ntls_key = "gone"\n']
)
def test_a_configuration_that_cannot_be_used_changes_nothing(
    mirror: MirrorProcess, registry: RegistryProcess, text: str
) -> None:
    reload(mirror, text=text)
    (rejected,) = wait_for(mirror, "config.rejected", 1)
    assert "mirror.toml" in str(rejected["error"]) or "tls_certificate" in str(rejected["error"])
    part = blob(1000, 5)
    registry.add_blob(NAME, part)
    assert mirror.request(path_of(part)).body == part.content
    assert events(mirror, "config.reloaded") == []


def test_what_needs_a_restart_is_said_and_left_as_it_is(mirror: MirrorProcess, registry: RegistryProcess) -> None:
    reload(mirror, extra='[cache]\ndir = "elsewhere"\ntag_ttl = "3m"\n[log]\nlevel = "debug"\n')
    wait_for(mirror, "config.reloaded", mirror.workers)
    # flags win over the file, so that the folder, which a flag names, has not changed
    assert wait_for(mirror, "config.restart_needed", 1)[0]["keys"] == ["log.level"]
    assert "cache.tag_ttl" in str(events(mirror, "config.reloaded")[0]["changed"])


def test_status_tells_since_when_it_serves_and_since_when_by_this_configuration(mirror: MirrorProcess) -> None:
    before = ask(mirror, "status", "--json").result["server"]
    assert before["reloaded"] is None
    reload(mirror, extra='[cache]\nnegative_ttl = "1s"\n')
    if mirror.workers > 1:
        wait_for(mirror, "config.reloaded", 1 + mirror.workers)
        os.kill(mirror.worker_pids[0], signal.SIGKILL)  # another takes its place, and tells the same
        wait_for(mirror, "worker.died", 1)
    told = ask_until(mirror, lambda server: server["reloaded"] is not None)
    assert told["started"] == before["started"] < told["reloaded"]
    said = ask(mirror, "status").out.splitlines()[0]
    assert said.endswith(", started just now, reloaded just now")


def ask_until(mirror: MirrorProcess, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """Return what is told of the server when it fits."""
    told: dict[str, float] = {}

    def fits() -> bool:
        told.update(ask(mirror, "status", "--json").result["server"])
        return condition(told)

    wait_until(fits)
    return told


def test_counters_go_on(mirror: MirrorProcess, registry: RegistryProcess) -> None:
    part = blob(1000, 6)
    registry.add_blob(NAME, part)

    def served() -> float:
        lines = mirror.request("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("mirror_requests_total{"))

    mirror.request(path_of(part))
    before = served()
    reload(mirror)
    wait_for(mirror, "config.reloaded", mirror.workers)
    mirror.request(path_of(part))
    assert served() > before


def test_sigterm_ends_all_generations_within_the_grace(mirror: MirrorProcess, registry: RegistryProcess) -> None:
    part = slow_blob(registry, 4_000_000)
    with begun(mirror, path_of(part)) as response:
        first = response.read(1000)
        reload(mirror)
        wait_for(mirror, "config.reloaded", mirror.workers)
        process = mirror.terminate()
        assert first + response.read() == part.content
    assert process.wait(timeout=20) == 0


def test_a_kept_connection_is_answered_before_and_after(mirror: MirrorProcess, registry: RegistryProcess) -> None:
    part = blob(1000, 8)
    registry.add_blob(NAME, part)
    connection = HTTPConnection("127.0.0.1", mirror.port, timeout=10)
    for _ in range(2):
        connection.request("GET", path_of(part))
        assert connection.getresponse().read() == part.content
        reload(mirror)
        wait_until(lambda: connection.sock is None or _is_closed(connection))
        connection.close()


def _is_closed(connection: HTTPConnection) -> bool:
    """Tell whether the other side has closed: there is something to read, where nothing was asked."""
    return bool(select.select([connection.sock], [], [], 0)[0])


def test_one_that_no_mirror_can_begin_with_leaves_no_trace(mirror: MirrorProcess, registry: RegistryProcess) -> None:
    """Nor does a worker use it that takes another's place later."""
    part = blob(1000, 8)
    registry.add_blob(NAME, part)
    (mirror.folder / "no.pem").write_text("no certificate")
    before = (mirror.folder / "mirror.toml").read_text()
    reload(mirror, extra=f'ca_file = "{mirror.folder}/no.pem"\n')
    rejected = wait_for(mirror, "config.rejected", mirror.workers)
    assert all("ca_file: cannot use" in str(event["error"]) for event in rejected)

    if mirror.workers > 1:
        os.kill(mirror.worker_pids[0], signal.SIGKILL)
        wait_for(mirror, "worker.died", 1)
    assert {mirror.request(path_of(part)).status for _ in range(20)} == {200}
    assert events(mirror, "worker.failed") == []

    known = len(events(mirror, "config.reloaded"))
    reload(mirror, text=before + '[cache]\nnegative_ttl = "1s"\n')
    taken_up = wait_for(mirror, "config.reloaded", known + mirror.workers + (mirror.workers > 1))[known:]
    assert {tuple(event["changed"]) for event in taken_up} == {("cache.negative_ttl",)}  # type: ignore[arg-type]  # JSON
