"""A mirror killed again and again under load: all of it at once, one worker, the supervising process."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from tests.soak.clients import Findings, Load
from tests.soak.content import Library
from tests.soak.soak import bounded_mirror, running, stored_files, until_at_rest, wrong_files
from tests.soak.weather import Weather
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

_CLIENTS = 8
_KILLS_IN_A_ROW = 10  # then the clients rest, and everything is counted
_LONGEST_LIFE_SECONDS = 0.8
_SETTLING_SECONDS = 3.0  # after a start, requests that were made before it may still fail
_PATIENCE_SECONDS = 60.0  # with a busy machine
_PULLS_AFTER = 6
_TARGETS = ("everything", "worker", "supervisor")


@dataclass(slots=True, kw_only=True)
class Kills:
    """What came of them; ``problems`` says what must not be."""

    findings: Findings = field(default_factory=Findings)
    killed: Counter[str] = field(default_factory=Counter)
    starts: list[float] = field(default_factory=list)  # seconds from the command to the first answer
    verified: int = 0
    wrong_files: list[str] = field(default_factory=list)
    left_files: list[str] = field(default_factory=list)
    miscounts: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Say what must not be."""
        checks = {
            f"failures: {self.findings.failures}": self.findings.failures,
            f"stored files that do not match their names: {self.wrong_files}": self.wrong_files,
            f"temporary files that outlived their downloads: {self.left_files}": self.left_files,
            f"wrong counts: {self.miscounts}": self.miscounts,
        }
        return [text for text, holds in checks.items() if holds]

    def figures(self) -> str:
        """Say in a few lines what was seen."""
        starts = sorted(self.starts) or [0.0]
        return (
            f"kills     {self.killed.total()}: {dict(self.killed)}\n"
            f"files     {self.verified} hashed, {len(self.wrong_files)} wrong, {len(self.left_files)} left over\n"
            f"starts    {len(self.starts)}, median {starts[len(starts) // 2]:.2f} s, at most {starts[-1]:.2f} s\n"
            f"pulls     {self.findings.pulls['whole']} whole, {self.findings.pulls['failures']} failures"
        )


def run_kills(
    number: int, seed: int, library: Library, registry: RegistryProcess, say: Callable[[str], None] = lambda _: None
) -> Kills:
    """Kill a mirror under load, look at what it has stored after each start, and pull from it after every tenth."""
    kills, choose = Kills(), random.Random(seed)
    with bounded_mirror(registry, library, workers=2) as mirror:
        wait_for_answer(mirror)
        for done in range(0, number, _KILLS_IN_A_ROW):
            weather = Weather(registry, library, seed + done, has_storms=False)
            _kill_under_load(mirror, kills, library, weather, choose, range(done, min(done + _KILLS_IN_A_ROW, number)))
            kills.left_files += until_at_rest(mirror)
            _count(mirror, kills)
            after = Load(port=mirror.port, library=library, weather=weather, seed=seed, findings=kills.findings)
            after.pull_all([library.choose(choose) for _ in range(_PULLS_AFTER)], clients=_PULLS_AFTER)
            problems, whole = kills.problems(), kills.findings.pulls["whole"]
            say(f"{kills.killed.total():4} kills, {whole} pulls; {problems or 'all well'}")
    return kills


def _kill_under_load(
    mirror: MirrorProcess, kills: Kills, library: Library, weather: Weather, choose: random.Random, turns: Sequence[int]
) -> None:
    up_since = time.monotonic()

    def is_down(asked_at: float) -> bool:
        return asked_at < up_since + _SETTLING_SECONDS

    load = Load(port=mirror.port, library=library, weather=weather, seed=turns[0], is_down=is_down, is_patient=False)
    pause = threading.Event()
    with ThreadPoolExecutor(_CLIENTS + 1) as pool, running(pool, load, weather, clients=_CLIENTS):
        for turn in turns:
            pause.wait(choose.random() * _LONGEST_LIFE_SECONDS)
            target = _TARGETS[turn % len(_TARGETS)]
            up_since = float("inf")
            seconds = _kill(mirror, target, choose)
            up_since = time.monotonic()
            kills.killed[target] += 1
            kills.starts += [seconds] if target != "worker" else []
            kills.verified += len(stored_files(mirror.cache_folder))
            kills.wrong_files += wrong_files(mirror.cache_folder)
    kills.findings.failures += load.findings.failures
    kills.findings.pulls += load.findings.pulls


def _kill(mirror: MirrorProcess, target: str, choose: random.Random) -> float:
    """Kill, start again, and wait for an answer; return how many seconds the last two took."""
    if target == "worker":
        with suppress(ProcessLookupError, IndexError):
            os.kill(choose.choice(mirror.worker_pids), signal.SIGKILL)
        return 0.0
    if target == "supervisor":
        mirror.kill_supervisor()
    else:
        mirror.kill()
    began = time.monotonic()
    mirror.start()
    wait_for_answer(mirror)
    return time.monotonic() - began


def wait_for_answer(mirror: MirrorProcess) -> None:
    """Wait until it answers.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            if mirror.request("/v2/").status == 200:
                return
        threading.Event().wait(0.01)
    raise TimeoutError("the mirror does not answer after a kill")


def _count(mirror: MirrorProcess, kills: Kills) -> None:
    """Compare what is counted with what is there, which the walk after a start may have to make right first."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (counted := mirror.metric("mirror_cache_bytes")) != (stored := _stored_bytes(mirror)):
        if time.monotonic() > deadline:
            kills.miscounts.append(f"{counted:.0f} bytes counted, {stored} stored")
            return
        threading.Event().wait(0.1)


def _stored_bytes(mirror: MirrorProcess) -> int:
    total = 0
    for path in stored_files(mirror.cache_folder):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
