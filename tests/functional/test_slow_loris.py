"""Two thousand connections on which no request gets complete, and two hundred readers that take next to nothing."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.images import blob
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

NAME = "library/app"
SLOW, READERS = 2000, 200
MOST_RESIDENT_BYTES = 300e6
SETTINGS = '[server]\nmax_connections_per_address = 4000\nheader_timeout = "60s"\n[log]\nlevel = "warning"\n'


def pull_seconds(mirror: MirrorProcess, path: str, content: bytes) -> float:
    started = time.monotonic()
    for _ in range(10):
        assert mirror.request(path).body == content
    return time.monotonic() - started


def resident_bytes(mirror: MirrorProcess) -> int:
    return int(Path(f"/proc/{mirror.pid}/statm").read_text(encoding="ascii").split()[1]) * 4096


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
        before = pull_seconds(mirror, path, small.content)
        with ExitStack() as connections:
            for number in range(SLOW + READERS):
                client = connections.enter_context(socket.create_connection(("127.0.0.1", mirror.port), timeout=20))
                if number < SLOW:
                    client.sendall(b"GET /v2/ HTTP/1.1\r\nX-A: ")
                else:
                    client.sendall(f"GET /v2/{NAME}/blobs/{large.digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    assert client.recv(1000).startswith(b"HTTP/1.1 200")
            meanwhile = pull_seconds(mirror, path, small.content)
            held = resident_bytes(mirror)
    record_property("seconds", f"{before:.2f} before, {meanwhile:.2f} meanwhile; {held / 1e6:.0f} MB")
    print(f"{before:.2f} s before, {meanwhile:.2f} s meanwhile; {held / 1e6:.0f} MB")  # noqa: T201 - told, not asserted
    assert held < MOST_RESIDENT_BYTES
