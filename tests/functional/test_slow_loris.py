"""Two thousand connections on which no request gets complete, and two hundred readers that take 1 kB a second."""

from __future__ import annotations

import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.images import blob
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

NAME = "library/app"
SLOW, READERS = 2000, 200
PULLED_SECONDS = 4.0
MOST_RESIDENT_BYTES = 300e6
SETTINGS = '[server]\nmax_connections_per_address = 4000\nheader_timeout = "60s"\n[log]\nlevel = "warning"\n'


def pull_milliseconds(mirror: MirrorProcess, path: str, content: bytes) -> float:
    """Pull for some seconds; return the median of a pull."""
    taken = []
    ends_at = time.monotonic() + PULLED_SECONDS
    while time.monotonic() < ends_at:
        started = time.monotonic()
        assert mirror.request(path).body == content
        taken.append(time.monotonic() - started)
    return statistics.median(taken) * 1000


def resident_bytes(mirror: MirrorProcess) -> int:
    return int(Path(f"/proc/{mirror.pid}/statm").read_text(encoding="ascii").split()[1]) * 4096


@contextmanager
def dripping(slow: Sequence[socket.socket], readers: Sequence[socket.socket]) -> Iterator[None]:
    """Send a byte of each head, and take 1 kB of each body, every second while the block runs."""
    ended = threading.Event()

    def drip() -> None:
        while not ended.wait(1):
            for one in slow:
                one.sendall(b"a")
            for one in readers:
                assert one.recv(1000)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.timeout(120)
def test_slow_connections_take_little_memory_and_hold_up_no_pull(
    record_property: Callable[[str, object], None],
) -> None:
    """How long the pull takes is told, and not asserted: ``-rA`` and ``--junit-xml`` show it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    large, small = blob(20_000_000, 77), blob(2_000_000, 78)
    with RegistryProcess() as registry, MirrorProcess({"docker.io": registry.base_url}, extra=SETTINGS) as mirror:
        for one in (large, small):
            registry.add_blob(NAME, one)
            assert mirror.request(f"/v2/{NAME}/blobs/{one.digest}").body == one.content
        path = f"/v2/{NAME}/blobs/{small.digest}"
        before = pull_milliseconds(mirror, path, small.content)
        with ExitStack() as connections:
            clients = [
                connections.enter_context(socket.create_connection(("127.0.0.1", mirror.port), timeout=20))
                for _ in range(SLOW + READERS)
            ]
            slow, readers = clients[:SLOW], clients[SLOW:]
            for client in slow:
                client.sendall(b"GET /v2/ HTTP/1.1\r\nX-A: ")
            for client in readers:
                client.sendall(f"GET /v2/{NAME}/blobs/{large.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
            with dripping(slow, readers):
                meanwhile = pull_milliseconds(mirror, path, small.content)
                held = resident_bytes(mirror)
    told = f"a pull took {before:.1f} ms before, {meanwhile:.1f} ms meanwhile; {held / 1e6:.0f} MB"
    record_property("told", told)
    print(told)  # noqa: T201 - told, not asserted
    assert held < MOST_RESIDENT_BYTES
