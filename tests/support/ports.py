"""TCP ports and processes of test servers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_ATTEMPT_SECONDS = 0.01
_GRACE_SECONDS = 5.0


def free_port() -> int:
    """Return a port that nobody listens on now; the kernel does not soon give it to somebody else."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, *, process: subprocess.Popen[Any] | None = None, timeout_seconds: float = 15.0) -> None:
    """Wait until something listens.

    Raises:
        TimeoutError: nothing did in time.
        ChildProcessError: the process ended before.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds):
                return
        except OSError:
            if process is not None and process.poll() is not None:
                raise ChildProcessError(f"the server on port {port} ended with {process.returncode}") from None
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on port {port} after {timeout_seconds} s") from None
        time.sleep(_ATTEMPT_SECONDS)


def wait_for_group(group: int, *, timeout_seconds: float = 10.0) -> None:
    """Wait until no process of a group is left: orphans are reaped by another than their parent.

    Raises:
        TimeoutError: one is left.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(_ATTEMPT_SECONDS)
    raise TimeoutError(f"a process of group {group} is left after {timeout_seconds} s")


def start_process(
    command: Sequence[str | Path],
    *,
    output: IO[bytes] | int = subprocess.DEVNULL,
    errors: IO[bytes] | int | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server in a process group of its own; the kernel kills it should the tests die."""
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*guard, *(str(word) for word in command)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )


def end_process(process: subprocess.Popen[bytes], *, grace_seconds: float = _GRACE_SECONDS) -> None:
    """End a process that `start_process` started, stopped or not, politely at first; wait until it is gone."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
