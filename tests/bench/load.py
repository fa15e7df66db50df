"""Clients: wrk for many small or endless requests, curl for one blob to its end."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.images import DOCKER_MANIFEST, OCI_MANIFEST

_SCRIPT = Path(__file__).with_name("wrk.lua")
_ACCEPT = f"Accept: {OCI_MANIFEST}, {DOCKER_MANIFEST}"  # distribution answers 404 where a manifest's type is not named
_PATIENCE_SECONDS = 120
_CURL_FORMAT = r"%{http_code} %{exitcode} %{size_download} %{time_starttransfer} %{time_total} %{url}\n"


class LoadFailed(Exception):
    """What came was not what was asked for, so that a figure would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What wrk has counted, and the CPU time that it took itself."""

    seconds: float
    requests: int
    bytes: int
    errors: int
    cpu_seconds: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What curl has seen of one answer."""

    status: int
    size_bytes: int
    first_byte_seconds: float
    seconds: float


def ask_again_and_again(url: str, *, connections: int, seconds: int, each_on_its_own: bool = False) -> Load:
    """Keep a number of connections busy with one URL, or make one for each request; wrk has one thread, so one core.

    Raises:
        LoadFailed: an answer was an error.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command += ["-H", "Connection: close"] if each_on_its_own else []
    command += ["-H", _ACCEPT, "-s", str(_SCRIPT), url]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    load = Load(**json.loads(done.stdout.splitlines()[-1]), cpu_seconds=cpu_seconds)
    if load.errors or not load.bytes:
        raise LoadFailed(f"{url}: {load.errors} errors, {load.bytes} bytes")
    return load


def fetch(urls: Sequence[str], *, at_once: int = 1, insecure: bool = False) -> Sequence[Transfer]:
    """Read each URL to its end, ``at_once`` at a time, by one curl, perhaps without a look at the certificate.

    Raises:
        LoadFailed: an answer was an error or ended short.
    """
    return fetch_by_many([urls], at_once=at_once, insecure=insecure)


def fetch_by_many(groups: Sequence[Sequence[str]], *, at_once: int, insecure: bool = False) -> Sequence[Transfer]:
    """Read the URLs of each group by a curl of its own, all at the same time.

    Raises:
        LoadFailed: an answer was an error or ended short.
    """
    running = [_start_curl(urls, at_once, insecure=insecure) for urls in groups]
    texts = [process.communicate(timeout=_PATIENCE_SECONDS)[0] for process in running]
    transfers = [_read(line) for text in texts for line in text.splitlines()]
    if len(transfers) != sum(map(len, groups)):
        raise LoadFailed(f"{len(transfers)} answers to {sum(map(len, groups))} requests")
    return transfers


def _start_curl(urls: Sequence[str], at_once: int, *, insecure: bool) -> subprocess.Popen[str]:
    command = ["curl", "--silent", "--header", _ACCEPT, "--config", "-", "--write-out", _CURL_FORMAT]
    command += ["--insecure"] if insecure else []
    if at_once > 1:
        command += ["--parallel", "--parallel-immediate", "--parallel-max", str(at_once)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    process.stdin.write("".join(f'url = "{url}"\noutput = "/dev/null"\n' for url in urls))
    process.stdin.close()
    process.stdin = None
    return process


def _read(line: str) -> Transfer:
    status, exit_code, size, first_byte, seconds, url = line.split()
    if status not in {"200", "206"} or exit_code != "0":
        raise LoadFailed(f"{url}: curl ended with {exit_code}, status {status}")
    return Transfer(
        status=int(status), size_bytes=int(size), first_byte_seconds=float(first_byte), seconds=float(seconds)
    )
