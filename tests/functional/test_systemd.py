"""What systemd does for a service: it hands a listening socket over, and is told when the mirror is ready."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.ports import end_process, free_port, start_process, wait_for_port

_ROOT = Path(__file__).resolve().parents[2]
_UNITS = _ROOT / "deploy" / "systemd"
_MOST_EXPOSED = 1.5  # of 10; below 2 is "OK"


@pytest.fixture(params=[1, 2], ids=["1-worker", "2-workers"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Return the command that serves."""
    flags = ["--cache-dir", str(tmp_path / "cache"), "--workers", str(request.param), "--listen", "127.0.0.1:1"]
    return [sys.executable, "-m", "mirror", "serve", *flags]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    """Return what systemd would listen to."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        yield listening


def healthz(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection):
        connection.request("GET", "/healthz")
        return connection.getresponse().status


def test_a_socket_that_systemd_has_opened_takes_the_place_of_the_configured_ones(
    serve: list[str], tmp_path: Path
) -> None:
    """`listen` names port 1, which nothing here may answer on: what answers is the socket that was handed over."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    command = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", "--setenv=PYTHONPATH", *serve]
    with (tmp_path / "log").open("wb") as log:
        process = start_process(command, output=log, errors=log, environment=environment)
    try:
        wait_for_port(port, process=process)  # this starts the mirror
        assert {healthz(port) for _ in range(10)} == {200}
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", 1)) != 0
    finally:
        end_process(process)


def test_systemd_is_told_of_readiness_reloading_and_the_end(
    serve: list[str], told: socket.socket, tmp_path: Path
) -> None:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "NOTIFY_SOCKET": str(tmp_path / "notify")}
    serve[-1] = f"127.0.0.1:{port}"
    with (tmp_path / "log").open("wb") as log:
        process = start_process(serve, output=log, errors=log, environment=environment)
    try:
        assert told.recv(1000) == b"READY=1"
        assert healthz(port) == 200
        process.send_signal(signal.SIGHUP)
        assert told.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert told.recv(1000) == b"READY=1"
        process.send_signal(signal.SIGTERM)
        assert told.recv(1000) == b"STOPPING=1"
    finally:
        end_process(process)


def test_the_units_are_understood_and_the_service_is_exposed_to_little(tmp_path: Path) -> None:
    for unit in _UNITS.iterdir():
        text = unit.read_text().replace("/opt/mirror/bin/mirror", sys.executable)  # systemd looks whether it is there
        (tmp_path / unit.name).write_text(text)
    units: list[Path] = sorted(tmp_path.glob("mirror.*"))
    assert [unit.name for unit in units] == ["mirror.service", "mirror.socket"]
    subprocess.run(["systemd-analyze", "verify", *units], check=True, capture_output=True)
    threshold = f"--threshold={int(_MOST_EXPOSED * 10)}"
    rating: list[str | Path] = ["systemd-analyze", "security", "--offline=true", threshold, tmp_path / "mirror.service"]
    subprocess.run(rating, check=True, capture_output=True)
