"""The mirror under test: in the test's own loop, with a clock that moves, or as processes of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prometheus_client import CollectorRegistry

from mirror.app import counting, prepare_store, running
from mirror.config import Config, load
from mirror.ports import UNTRACED, Tracer
from mirror.upstream.addresses import is_public
from mirror.web.doors import Doors
from mirror.web.htpasswd import Htpasswd
from tests.support.clock import MovableClock
from tests.support.ports import end_process, free_port, start_process, wait_for_group, wait_for_port
from tests.support.waiting import wait_until

_ROOT = Path(__file__).resolve().parents[2]
_ANSWER_SECONDS = 30.0
_START_SECONDS = 40.0  # of a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningMirror:
    """A mirror in this loop."""

    base_url: str
    port: int
    metrics: CollectorRegistry
    clock: MovableClock
    folder: Path


def settings(upstreams: Mapping[str, str], **cache: object) -> dict[str, object]:
    """Return flags for a mirror whose upstreams answer at these URLs; short time limits, as a test wants them."""
    made: dict[str, object] = {f"cache.{key}": value for key, value in cache.items()}
    for name, url in upstreams.items():
        made[f"upstreams.{name}.endpoints"] = [url]
        made[f"upstreams.{name}.read_timeout"] = "2s"
        if name == "docker.io":
            made[f"upstreams.{name}.search_endpoint"] = url
    return made


def configure(folder: Path, overrides: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Config:
    """Return a configuration that caches in ``folder`` and knows nothing of the machine's own environment."""
    return load(path=None, environ=environ or {}, overrides={"cache.dir": str(folder), **overrides})


@asynccontextmanager
async def running_mirror(
    folder: Path,
    overrides: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
    *,
    public: str | None = None,
    tracer: Tracer = UNTRACED,
) -> AsyncIterator[RunningMirror]:
    """Run a mirror on a free port in this loop; it takes ``public``, one of loopback's addresses, for a public one."""
    config = await asyncio.to_thread(configure, folder, overrides, environ)
    await asyncio.to_thread(prepare_store, config)
    clock = MovableClock()
    rule = is_public if public is None else lambda address: is_public(address) or address == public
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        htpasswd = await asyncio.to_thread(Htpasswd.of, config.access)
        with counting(clock.now, tracer) as counters:
            doors = Doors(pulls=[listening])
            async with running(config, doors, counters, htpasswd=htpasswd, clock=clock.now, is_public=rule):
                yield RunningMirror(
                    base_url=f"http://127.0.0.1:{port}",
                    port=port,
                    metrics=counters.metrics.registry,
                    clock=clock,
                    folder=folder,
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def cache_status(self) -> str:
        """What the mirror says happened."""
        return self.headers.get("cache-status", "")


class MirrorProcess:
    """``mirror serve`` as its users run it; after `kill` or `stop`, `start` brings back port and cache."""

    def __init__(
        self,
        upstreams: Mapping[str, str],
        *,
        workers: int = 1,
        port: int = 0,
        folder: Path | None = None,
        extra: str = "",
        listen: str = "127.0.0.1",
    ) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="mirror-", ignore_cleanup_errors=True)
        self.folder = folder or Path(self._temporary.name)
        self.port = port or free_port()
        self.workers = workers
        self.log_path = self.folder / "log"
        self._listen = listen
        self._config = self.folder / "mirror.toml"
        self._config.write_text(_toml(upstreams) + extra, encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()

    @property
    def cache_folder(self) -> Path:
        """Where it stores."""
        return self.folder / "cache"

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:port``."""
        return f"http://{self.host}"

    @property
    def pid(self) -> int:
        """The process that was started: the server, or with several workers their supervisor."""
        if self._process is None:
            raise ChildProcessError("the mirror does not run")
        return self._process.pid

    @property
    def worker_pids(self) -> list[int]:
        """The processes that serve."""
        if self.workers == 1:
            return [self.pid]
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [int(word) for word in children.split()]

    def start(self) -> None:
        """Start, and wait until it listens."""
        command = [sys.executable, "-m", "mirror", "serve", "--config", str(self._config)]
        command += ["--listen", f"{self._listen}:{self.port}", "--cache-dir", str(self.cache_folder)]
        command += ["--workers", str(self.workers)]
        left_out = ("MIRROR_", "PYTHONDONTWRITEBYTECODE")  # a server that is installed has its bytecode
        environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        with self.log_path.open("ab") as log:
            self._process = start_process(
                command, output=log, errors=log, environment={**environment, "PYTHONPATH": str(_ROOT)}
            )
        wait_for_port(self.port, process=self._process, timeout_seconds=_START_SECONDS)

    def stop(self) -> None:
        """End it by SIGTERM, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            end_process(process)

    def terminate(self) -> subprocess.Popen[bytes]:
        """Send SIGTERM, and return the process to wait for."""
        process, self._process = self._process, None
        if process is None:
            raise ChildProcessError("the mirror does not run")
        process.send_signal(signal.SIGTERM)
        return process

    def kill(self) -> None:
        """End it and its workers by SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            wait_for_group(process.pid)

    def kill_supervisor(self) -> None:
        """End the process that was started by SIGKILL, and wait until its workers have ended too."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            wait_for_group(process.pid)

    def metric(self, series: str) -> float:
        """Scrape one figure, by its name and its labels as they are written."""
        text = self.request("/metrics").body.decode()
        return float(text.partition(f"\n{series} ")[2].split()[0])

    def settle(self) -> None:
        """Wait until no download is in progress: a client has the last byte before the file has its name."""
        wait_until(lambda: self.metric("mirror_fills_in_progress") == 0)

    def events(self) -> list[dict[str, object]]:
        """Return what it has logged."""
        lines = self.log_path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def request(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """Ask the mirror, with the path just as it is written.

        Raises:
            http.client.IncompleteRead: the body ended short.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=found, body=response.read())
        finally:
            connection.close()


def _toml(upstreams: Mapping[str, str]) -> str:
    lines = []
    for name, url in upstreams.items():
        lines += [f'[upstreams."{name}"]', f'endpoints = ["{url}"]', 'read_timeout = "2s"']
        if name == "docker.io":
            lines.append(f'search_endpoint = "{url}"')
    return "\n".join(lines) + "\n"
