"""Clients that keep connections and send, or take, next to nothing."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.images import blob
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess
from tests.support.waiting import wait_until

NAME = "library/app"
SETTINGS = '[server]\nheader_timeout = "1s"\nsend_timeout = "2s"\n[log]\nlevel = "debug"\n'


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        yield started


@pytest.fixture(scope="module")
def mirror(registry: RegistryProcess) -> Iterator[MirrorProcess]:
    with MirrorProcess({"docker.io": registry.base_url}, extra=SETTINGS) as process:
        yield process


def is_ended(connection: socket.socket) -> bool:
    """Wait until the other side closes; what it still sends does not matter."""
    connection.settimeout(20)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET", b"GET /v2/ HTTP/1.1\r\nHost: x\r\n", REQUEST + b"GET /v2/ HT", REQUEST * 2 + b"G"],
    ids=["nothing", "a line begun", "headers begun", "a second request begun", "a third request begun"],
)
def test_a_request_that_does_not_get_complete_ends_its_connection(mirror: MirrorProcess, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", mirror.port)) as connection:
        connection.sendall(sent)
        assert is_ended(connection)


def test_a_byte_now_and_then_keeps_no_connection(mirror: MirrorProcess) -> None:
    pause = threading.Event()
    with socket.create_connection(("127.0.0.1", mirror.port)) as connection, pytest.raises(ConnectionError):  # noqa: PT012 - whichever write fails
        connection.sendall(b"GET /v2/ HTTP/1.1\r\n")
        for _ in range(100):
            connection.sendall(b"X-A: b\r\n")
            pause.wait(0.1)


def test_a_connection_between_requests_is_kept(mirror: MirrorProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", mirror.port)
    try:
        connection.connect()
        kept = connection.sock
        for path in ("/v2/", "/v2/", "/healthz"):
            connection.request("GET", path)
            assert connection.getresponse().read()
            # others come, are late and end: more than the limit has passed
            with socket.create_connection(("127.0.0.1", mirror.port)) as late:
                assert is_ended(late)
        assert connection.sock is kept
    finally:
        connection.close()


def test_a_body_that_takes_longer_than_the_limit_is_sent_whole(
    registry: RegistryProcess, mirror: MirrorProcess
) -> None:
    part = blob(30_000_000, 911)
    registry.add_blob(NAME, part)
    pause, received = threading.Event(), 0
    with socket.create_connection(("127.0.0.1", mirror.port)) as connection:
        connection.sendall(f"GET /v2/{NAME}/blobs/{part.digest} HTTP/1.0\r\n\r\n".encode())
        for _ in range(40):  # slower than either limit, and never still
            received += len(connection.recv(100_000))
            pause.wait(0.1)
        while piece := connection.recv(1 << 20):
            received += len(piece)
    assert received > part.size_bytes


def test_a_reader_that_takes_nothing_is_let_go(registry: RegistryProcess, mirror: MirrorProcess) -> None:
    part = blob(60_000_000, 912)
    registry.add_blob(NAME, part)
    path = f"/v2/{NAME}/blobs/{part.digest}"
    assert mirror.request(path).body == part.content

    def broken_off() -> int:
        served = [event for event in mirror.events() if event.get("reference") == part.digest]
        return sum("error" in event for event in served)

    with socket.create_connection(("127.0.0.1", mirror.port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(lambda: broken_off() == 1, timeout_seconds=20)
    assert not [event for event in mirror.events() if event["event"] in {"request.failed", "task.failed"}]
