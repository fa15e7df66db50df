"""The socket through which commands reach a running server."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mirror.cli.sockets import short_name
from tests.support.commands import ask, run_command
from tests.support.mirrors import MirrorProcess
from tests.support.ports import free_port
from tests.support.waiting import wait_until

NOWHERE = {"docker.io": "http://127.0.0.1:1"}


class SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with short_name(self.path) as name:
            self.sock.connect(name)


def control_of(mirror: MirrorProcess) -> Path:
    return mirror.cache_folder / "control.sock"


def send(
    mirror: MirrorProcess, path: str, body: str = "", method: str = "POST"
) -> tuple[int, Mapping[str, str], list[Any]]:
    connection = SocketConnection(control_of(mirror))
    connection.request(method, path, body=body)
    response = connection.getresponse()
    lines = [json.loads(line) for line in response]
    connection.close()
    return response.status, dict(response.getheaders()), lines


@pytest.mark.parametrize("workers", [1, 2])
def test_only_its_owner_can_reach_the_socket_and_it_goes_with_the_server(workers: int) -> None:
    with MirrorProcess(NOWHERE, workers=workers) as mirror:
        wait_until(control_of(mirror).exists)  # the port was open before
        status = control_of(mirror).lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert ask(mirror, "status", "--json").result["server"]["process"] in mirror.worker_pids
        mirror.stop()
        assert not control_of(mirror).exists()
        assert ask(mirror, "status", "--json").result["server"] is None


@pytest.mark.parametrize("workers", [1, 2])
def test_the_socket_of_a_killed_server_is_replaced(workers: int) -> None:
    with MirrorProcess(NOWHERE, workers=workers) as mirror:
        assert mirror.request("/healthz").status == 200
        mirror.kill()
        assert control_of(mirror).exists()
        assert ask(mirror, "status", "--json").result["server"] is None
        mirror.start()
        assert ask(mirror, "status", "--json").result["server"]["process"] in mirror.worker_pids


def test_a_second_server_leaves_the_first_and_its_cache_alone() -> None:
    with MirrorProcess(NOWHERE) as mirror:
        second = ask(mirror, "serve", "--listen", f"127.0.0.1:{free_port()}")
        assert second.code == 1
        assert second.err == (
            f"mirror: another mirror runs on the cache folder {mirror.cache_folder}; "
            "stop it, or give this one its own (cache.dir)\n"
        )
        assert ask(mirror, "status", "--json").result["server"]["process"] == mirror.pid


def test_a_server_that_ends_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    """One that still sends accepts nothing any more; the next one need not wait for it."""
    with MirrorProcess(NOWHERE, folder=tmp_path) as first:
        control_of(first).unlink()
        with MirrorProcess(NOWHERE, folder=tmp_path) as second:
            first.stop()
            assert ask(second, "status", "--json").result["server"]["process"] == second.pid


def test_a_long_path_is_no_hindrance(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with MirrorProcess(NOWHERE, folder=folder) as mirror:
        assert len(str(control_of(mirror))) > 107
        mirror.kill()
        mirror.start()
        assert ask(mirror, "status", "--json").result["server"]["process"] == mirror.pid


def test_a_folder_where_no_socket_can_be_made_is_served_all_the_same() -> None:
    with MirrorProcess(NOWHERE) as mirror:
        assert mirror.request("/healthz").status == 200
        mirror.stop()
        control_of(mirror).mkdir()
        mirror.start()
        assert mirror.request("/healthz").status == 200
        assert [event["error"] for event in mirror.events() if event["event"] == "control.unavailable"]
        assert ask(mirror, "status", "--json").result["server"] is None


@pytest.fixture(scope="module")
def running() -> Iterator[MirrorProcess]:
    with MirrorProcess(NOWHERE) as mirror:
        yield mirror


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/v1/nothing", "", 404, "there is no operation 'nothing'"),
        ("/v1/../v1/status", "", 404, "there is no operation '../v1/status'"),
        ("/", "", 404, "operations are asked for by POST /v1/NAME"),
        ("/v2/", "", 404, "operations are asked for by POST /v1/NAME"),
        ("/v1/status", "{", 400, "the arguments are not JSON"),
        ("/v1/status", "[" * 100_000, 400, "the arguments are not JSON"),
        ("/v1/status", "[]", 400, "the arguments have to be a JSON object"),
        ("/v1/status", '"' + "a" * 2_000_000 + '"', 400, "the arguments are too long"),
        ("/v1/status", '{"colour": "red"}', 400, "status has no argument 'colour'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_makes_no_sense_is_said(running: MirrorProcess, path: str, body: str, status: int, error: str) -> None:
    answered, headers, lines = send(running, path, body)
    assert answered == status
    assert headers["Content-Type"] == "application/x-ndjson"
    (line,) = lines
    assert error in line["error"]


def test_another_method_is_refused(running: MirrorProcess) -> None:
    status, headers, _ = send(running, "/v1/status", method="GET")
    assert (status, headers["Allow"]) == (405, "POST")


def test_operations_are_not_on_the_port_that_pulls(running: MirrorProcess) -> None:
    assert running.request("/v1/status", method="POST").status == 405
    assert running.request("/v1/status").status == 404


def test_a_folder_that_is_no_cache_is_said_and_stays_as_it_is(tmp_path: Path) -> None:
    failed = run_command("status", "--cache-dir", "nowhere", folder=tmp_path)
    assert (failed.code, failed.out) == (1, "")
    assert failed.err == (
        "mirror: nothing is cached in nowhere; name the mirror's configuration by --config, "
        "or its cache folder by --cache-dir\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_not_ours_is_not_waited_for_without_end(tmp_path: Path) -> None:
    """Somebody listens at the socket's place and closes what is connected to it."""
    (tmp_path / "mirror-cache").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(tmp_path / "mirror-cache" / "control.sock"))
        other.listen(1)
        other.settimeout(20)

        def close_one() -> None:
            other.accept()[0].close()

        thread = threading.Thread(target=close_one)
        thread.start()
        failed = run_command("status", folder=tmp_path)
        thread.join()
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith("mirror: the mirror broke off (")
