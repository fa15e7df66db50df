"""A test registry in a process of its own, for synchronous tests, real clients and measurements."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from select import select
from typing import Any, Literal, Self

from tests.support import content as changes
from tests.support import faults, record
from tests.support.access import Access
from tests.support.images import Blob, Pullable
from tests.support.ports import end_process, start_process
from tests.support.record import Recorded, sum_bytes
from tests.support.registry import RateLimit

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 20.0
_ANSWER_SECONDS = 30.0
Server = Literal["registry", "tokens"]


class RegistryProcess:
    """The synchronous twin of `TestRegistry`; after `kill` or `stop`, `start` brings back port and content.

    `settings` are ``auth`` (none, basic, bearer), ``users`` (name → password), ``private`` (repository → users) and
    ``tokens`` (fields of `TokenSettings`). Faults, record and tokens do not outlive the process.
    """

    def __init__(self, *, port: int = 0, settings: dict[str, Any] | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="registry-")
        self.folder = Path(self._temporary.name)
        self.settings = settings or {}
        self.ports = {"registry": port, "cdn": 0, "tokens": 0}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._temporary.cleanup()

    # Life

    def start(self) -> None:
        """Start, and wait until it listens.

        Raises:
            ChildProcessError: it did not start.
        """
        command = [sys.executable, "-m", "tests.support.control", "--folder", str(self.folder)]
        command += ["--port", str(self.ports["registry"]), "--cdn-port", str(self.ports["cdn"])]
        command += ["--token-port", str(self.ports["tokens"]), "--settings", json.dumps(self.settings)]
        self._process = start_process(command, output=subprocess.PIPE, folder=_ROOT, environment=os.environ)
        self.ports |= self._read_ports(self._process)

    def stop(self) -> None:
        """End it, if it runs; its content stays."""
        process, self._process = self._process, None
        if process is not None:
            end_process(process)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._signal(signal.SIGKILL)
        self.stop()

    def freeze(self) -> None:
        """Stop it by SIGSTOP: connections are accepted by the kernel, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on by SIGCONT."""
        self._signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The process."""
        if self._process is None:
            raise ChildProcessError("the test registry does not run")
        return self._process.pid

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.ports['registry']}"

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:port``."""
        return f"http://{self.host}"

    # Content

    def add(self, repository: str, tag: str | None, pullable: Pullable) -> None:
        """Add an image or index with all its blobs, and point a tag at it."""
        self._apply(changes.add_changes(self.folder, repository, tag, pullable))

    def add_blob(self, repository: str, blob: Blob) -> None:
        """Add a blob that no manifest needs to name."""
        self._apply(changes.blob_changes(self.folder, repository, blob))

    def add_manifest(self, repository: str, tag: str | None, body: bytes, media_type: str) -> str:
        """Add any bytes as a manifest; return their digest."""
        made, digest = changes.manifest_changes(self.folder, repository, tag, body, media_type)
        self._apply(made)
        return digest

    def tag(self, repository: str, tag: str, digest: str) -> None:
        """Point a tag at a manifest that is there."""
        self._apply([changes.tag_change(repository, tag, digest)])

    def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag; its manifest stays."""
        self._apply([changes.untag_change(repository, tag)])

    def delete(self, repository: str, digest: str) -> None:
        """Remove a manifest or blob from one repository."""
        self._apply([changes.forget_change(repository, digest)])

    # Faults and settings

    def fail(self, *set_faults: faults.Fault, server: Server = "registry") -> None:
        """Set faults, after those already set."""
        self._command("fail", {"faults": [faults.to_json(fault) for fault in set_faults], "server": server})

    def heal(self, *, server: Server = "registry") -> None:
        """Take every fault away and let go what is held."""
        self._command("heal", {"server": server})

    def release(self) -> None:
        """Let requests go on that `Hang` or `Silence` holds now."""
        self._command("release")

    def set_limit(self, limit: RateLimit | None) -> None:
        """Count manifest GETs from now on, or no longer."""
        self._command("set", {"limit": None if limit is None else asdict(limit)})

    def set_access(self, access: Access) -> None:
        """Replace users and private repositories, for later starts too."""
        private = {repository: sorted(users) for repository, users in access.private.items()}
        self.settings |= {"users": access.users, "private": private}
        self._command("access", {"users": access.users, "private": private})

    def set_tokens(self, **settings: object) -> None:
        """Change fields of the token service's `TokenSettings`, for later starts too."""
        self.settings["tokens"] = self.settings.get("tokens", {}) | settings
        self._command("tokens", settings)

    def advance(self, seconds: float) -> None:
        """Move the clock by which tokens and signed links end."""
        self._command("advance", {"seconds": seconds})

    def revoke_all(self) -> None:
        """Make every token so far invalid."""
        self._command("revoke")

    # Record

    @property
    def requests(self) -> list[Recorded]:
        """Every request of this process since its start or `reset_record`, in the order of arrival."""
        return self._requests("registry")[1]

    @property
    def token_requests(self) -> list[Recorded]:
        """The same of its token service."""
        return self._requests("tokens")[1]

    def count(self, **facts: object) -> int:
        """Count requests by any attribute: ``count(kind="blob", method="GET", status=200)``."""
        return len(record.select(self.requests, **facts))

    def bytes_sent(self, kind: str | None = None, *, reference: str | None = None) -> int:
        """Add up body bytes that sockets took; kind ``blob`` includes what the CDN sent."""
        return sum_bytes(record.select(self.requests, reference=reference), kind)

    def reset_record(self) -> None:
        """Forget the requests so far, those for tokens too."""
        self._command("forget")
        if self.ports["tokens"]:
            self._command("forget", {"server": "tokens"})

    def until(self, condition: Callable[[list[Recorded]], bool], *, timeout_seconds: float = 10.0) -> list[Recorded]:
        """Wait until a condition over the requests holds; checked whenever one arrives, is held, or ends.

        Raises:
            TimeoutError: it did not in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            version, requests = self._requests("registry")
            if condition(requests):
                return requests
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"the condition did not hold within {timeout_seconds} s")
            self._command("wait", {"version": version, "timeout_seconds": min(left, _ANSWER_SECONDS / 2)})

    def until_held(self, number: int = 1) -> None:
        """Wait until so many requests are held by `Hang` or `Silence`."""
        self.until(lambda requests: len(record.select(requests, held=True)) >= number)

    def _read_ports(self, process: subprocess.Popen[bytes]) -> dict[str, int]:
        output = process.stdout
        line = b""
        if output is not None and select([output], [], [], _START_SECONDS)[0]:
            line = output.readline()
        if not line:
            self.stop()
            raise ChildProcessError("the test registry did not start")
        ports: dict[str, int] = json.loads(line)
        return ports

    def _requests(self, server: Server) -> tuple[int, list[Recorded]]:
        answer = self._command("requests", {"server": server})
        return answer["version"], [record.from_json(value) for value in answer["requests"]]

    def _apply(self, made: list[dict[str, Any]]) -> None:
        self._command("apply", {"changes": made})

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _command(self, name: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["registry"], timeout=_ANSWER_SECONDS)
        try:
            connection.request("POST", f"/_control/{name}", json.dumps(given or {}))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ValueError(f"{name}: {answer}")
        return answer
