"""What the README promises: a clone, `make serve`, and a Docker daemon pulls through it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.clients import ARCHITECTURE, Dockerd
from tests.support.images import docker_list
from tests.support.ports import end_process, start_process, wait_for_port
from tests.support.process import RegistryProcess
from tests.support.snippets import snippet

pytestmark = pytest.mark.clients

_REPOSITORY = Path(__file__).resolve().parents[2]
_INSTALL_SECONDS = 150.0


@pytest.mark.timeout(200)
def test_make_serve_in_a_fresh_clone_serves_a_docker_daemon(dockerd: Dockerd, seed: int, tmp_path: Path) -> None:
    index = docker_list(seed)
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    # The files may be another user's, who is trusted: the tests run them.
    trust = ["-c", f"safe.directory={_REPOSITORY}", "-c", f"safe.directory={_REPOSITORY / '.git'}"]
    subprocess.run(["git", *trust, "clone", "--quiet", "--no-local", _REPOSITORY, clone], check=True)
    with RegistryProcess() as upstream:
        upstream.add("library/app", "1", index)
        environment = _environment(home) | {"MIRROR_UPSTREAMS__DOCKER_IO__ENDPOINTS": upstream.base_url}
        with _make_serve(clone, dockerd.mirror_host, environment):
            assert dockerd.pull("app:1") == index.image(ARCHITECTURE).config.digest
        assert upstream.count(kind="blob") > 0
    assert (clone / "mirror-cache").is_dir()


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MIRROR_", "XDG_"))}
    return kept | {"HOME": str(home)}


@contextmanager
def _make_serve(clone: Path, listen: str, environment: Mapping[str, str]) -> Iterator[None]:
    (clone / "own.toml").write_text('[log]\nlevel = "debug"\n', encoding="utf-8")
    with (clone / "log").open("wb") as log:
        process = start_process(
            [*snippet("README.md", "make serve").text.split(), f"ARGS=--listen {listen} --config own.toml"],
            output=log,
            errors=log,
            environment=environment,
            folder=clone,
        )
    try:
        wait_for_port(int(listen.rpartition(":")[2]), process=process, timeout_seconds=_INSTALL_SECONDS)
        yield
    except ChildProcessError as error:
        raise ChildProcessError((clone / "log").read_text(encoding="utf-8")) from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # make, and the mirror below it
        end_process(process)
