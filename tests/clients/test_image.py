"""The image of `deploy/Dockerfile`, on a base made here, run by Docker as people run it; a daemon pulls through it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.clients import Dockerd
from tests.support.faults import Fault, Slow
from tests.support.images import blob, docker_list
from tests.support.ports import free_port, wait_for_port
from tests.support.process import RegistryProcess
from tests.support.snippets import snippet

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1200)]

_ROOT = Path(__file__).resolve().parents[2]
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_BASE, _NAME = "base:test", "mirror"
_BUILD_SECONDS = 900


def shown() -> list[list[str]]:
    """Return the words of the commands of docs/install.md, but for the port: the network is the machine's own."""
    script = snippet("docs/install.md", "docker build").replaced({"-p 5000:5000 ": "", "\\\n": ""})
    return [shlex.split(line) for line in script.splitlines()]


@pytest.fixture(scope="module")
def root_file_system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return Debian with Python and nothing else, in which pip trusts what this machine trusts."""
    folder = tmp_path_factory.mktemp("base") / "root"
    packages = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", packages, "bookworm", folder], check=True, capture_output=True)
    shutil.copy(_AUTHORITIES, folder / _AUTHORITIES.relative_to("/"))
    (folder / "etc" / "pip.conf").write_text(f"[global]\ncert = {_AUTHORITIES}\n")
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def dockerd(port: int, root_file_system: Path) -> Iterator[Dockerd]:
    """Return a daemon that has built the image, and that has the container as its own mirror."""
    with Dockerd(f"127.0.0.1:{port}") as daemon:
        packed = daemon.folder / "base.tar"
        with tarfile.open(packed, "w") as archive:
            archive.add(root_file_system, arcname=".")
        shutil.rmtree(root_file_system)
        docker(daemon, "import", packed, _BASE)
        packed.unlink()
        build, _ = shown()
        docker(daemon, "build", "--network", "host", "--build-arg", f"BASE={_BASE}", *build[2:])
        yield daemon


@pytest.fixture
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        yield started


def docker(daemon: Dockerd, *arguments: str | Path) -> str:
    """Run ``docker``, for as long as it takes to build an image, which goes out to fetch what it is made of."""
    environment = {name: value for name, value in daemon.environment.items() if not name.endswith("_PROXY")}
    done = subprocess.run(
        ["docker", *arguments],
        env=environment,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture
def container(dockerd: Dockerd, registry: RegistryProcess, port: int) -> Iterator[str]:
    """Run it as docs/install.md has it, but on this machine's own network, where the registry of the test is."""
    settings = {
        "MIRROR_SERVER__LISTEN": f"127.0.0.1:{port}",
        "MIRROR_HEALTH_URL": f"http://127.0.0.1:{port}/healthz",
        "MIRROR_UPSTREAMS__DOCKER_IO__ENDPOINTS": registry.base_url,
    }
    variables = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
    _, run = shown()
    docker(dockerd, "run", "--network", "host", *variables, *run[2:])
    try:
        wait_for_port(port)
        yield _NAME
    finally:
        docker(dockerd, "rm", "--force", _NAME)


def inspect(daemon: Dockerd, path: str) -> str:
    return docker(daemon, "inspect", "--format", f"{{{{{path}}}}}", _NAME)


def test_a_daemon_pulls_through_it_and_it_is_nobody_on_a_file_system_that_is_read_only(
    dockerd: Dockerd, container: str, registry: RegistryProcess
) -> None:
    index = docker_list(4242)
    registry.add("library/app", "1", index)
    assert dockerd.pull("app:1") in {image.config.digest for image in index.images}
    assert {request.kind for request in registry.requests} >= {"manifest", "blob"}
    assert docker(dockerd, "exec", container, "id", "-u") == "65532"
    touched = subprocess.run(
        ["docker", "exec", container, "touch", "/opt/mirror/x"],
        env=dockerd.environment,
        capture_output=True,
        check=False,
    )
    assert touched.returncode != 0
    assert b"Read-only file system" in touched.stderr
    deadline = time.monotonic() + 60
    while inspect(dockerd, ".State.Health.Status") != "healthy":
        assert time.monotonic() < deadline, inspect(dockerd, "json .State.Health")
        threading.Event().wait(0.5)


def test_what_it_stored_is_there_in_the_next_container(
    dockerd: Dockerd, container: str, registry: RegistryProcess, port: int
) -> None:
    part = blob(100_000, 4243)
    registry.add_blob("library/app", part)
    path = f"/v2/library/app/blobs/{part.digest}"
    assert read(port, path) == part.content
    docker(dockerd, "restart", container)
    wait_for_port(port)
    registry.reset_record()
    assert read(port, path) == part.content
    assert [request.kind for request in registry.requests] == []


def test_docker_stop_under_load_cuts_no_transfer(
    dockerd: Dockerd, container: str, registry: RegistryProcess, port: int
) -> None:
    """`docker stop` waits 10 s unless told otherwise; transfers that take 4 s are under way in all ways there are."""
    parts = [blob(4_000_000, 4300 + number) for number in range(4)]
    for part in parts:
        registry.add_blob("library/app", part)
        registry.fail(Fault(action=Slow(bytes_per_second=1_000_000), kind="blob", path=part.digest))
    paths = [f"/v2/library/app/blobs/{part.digest}" for part in parts]
    started = threading.Barrier(len(paths) * 2 + 1)
    with ThreadPoolExecutor(len(paths) * 2) as pool:
        reads = [pool.submit(read, port, path, started) for path in paths for _ in range(2)]
        started.wait(30)
        docker(dockerd, "stop", container)
        bodies = [one.result() for one in reads]
    assert bodies == [part.content for part in parts for _ in range(2)]
    assert inspect(dockerd, ".State.ExitCode") == "0"
    last: Sequence[str] = docker(dockerd, "logs", container).splitlines()
    assert json.loads(last[-1])["event"] == "server.stopped"


def read(port: int, path: str, started: threading.Barrier | None = None) -> bytes:
    """Read a body; the barrier is passed when its first bytes are here."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        first = response.read(1000)
        if started is not None:
            started.wait(30)
        return first + response.read()
    finally:
        connection.close()
