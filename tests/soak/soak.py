"""The soak itself: two workers, many clients, a bound of a fifth of what is asked for, an upstream in bad weather."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.soak.clients import Findings, Load
from tests.soak.content import Library
from tests.soak.samples import Sample, Watch, growth
from tests.soak.weather import Weather
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

_MEGABYTE = 1_000_000
_SETTLED_SHARE = 0.2  # of the time, after which nothing may grow any more: two minutes of ten
_MOST_GROWTH = {"memory_bytes": 25.0 * _MEGABYTE, "handles": 16.0, "threads": 4.0}  # of both workers in eight minutes
_PATIENCE_SECONDS = 30.0
_PROGRESS_SECONDS = 10.0
_EXPECTED_ERRORS = frozenset({"blob.digest_mismatch"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything."""

    seconds: float
    seed: int
    clients: int = 20
    workers: int = 2
    looks_at_growth: bool = True  # which takes minutes to tell from warming up


@dataclass(slots=True, kw_only=True)
class Report:
    """What came out of it; ``problems`` says what must not be."""

    plan: Plan
    library: Library
    findings: Findings
    faults: int = 0
    samples: Sequence[Sample] = ()
    left_files: Sequence[str] = ()
    wrong_files: Sequence[str] = ()
    counted_bytes: float = 0.0
    stored_bytes: int = 0
    fills: float = 0.0
    evictions: float = 0.0
    errors: Sequence[str] = ()

    @property
    def settled(self) -> Sequence[Sample]:
        """The samples of the time in which nothing may grow."""
        return [one for one in self.samples if one.seconds > self.samples[-1].seconds * _SETTLED_SHARE]

    def problems(self) -> list[str]:
        """Say what must not be."""
        limit_bytes = self.library.limit_bytes
        excess_bytes = max(one.excess_bytes(limit_bytes) for one in self.samples)
        checks = {
            f"{self.findings.pulls['failures']} failures: {self.findings.failures}": self.findings.pulls["failures"],
            f"{excess_bytes} bytes over the bound": excess_bytes > 0,
            f"temporary files that outlived their downloads: {self.left_files}": self.left_files,
            f"stored files that do not match their names: {self.wrong_files}": self.wrong_files,
            f"{self.fills:.0f} downloads that never end": self.fills,
            f"{self.counted_bytes:.0f} bytes counted, {self.stored_bytes} stored": (
                self.counted_bytes != self.stored_bytes
            ),
            "nothing was evicted": not self.evictions,
            f"errors in the log: {self.errors}": self.errors,
        }
        problems = [text for text, holds in checks.items() if holds]
        return problems + (self._growth() if self.plan.looks_at_growth else [])

    def _growth(self) -> list[str]:
        grown = {name: growth(self.settled, name) for name in _MOST_GROWTH}
        return [f"{name} grew by {grown[name]:.1f}" for name, most in _MOST_GROWTH.items() if grown[name] > most]

    def figures(self) -> str:
        """Say in a few lines what was seen."""
        settled, pulls = self.settled, self.findings.pulls
        first, last = settled[0], settled[-1]
        most = {
            "size": max(one.stored_bytes + one.partial_bytes for one in self.samples),
            "handles": max(one.handles for one in self.samples),
            "files": max(one.temporary_files for one in self.samples),
        }
        lines = {
            "pulls": f"{pulls['whole']} whole, {pulls['left']} left in the middle; {self.faults} faults;"
            f" {pulls['refused']} requests refused, {pulls['broken']} cut; {pulls['failures']} failures",
            "size": f"at most {_mb(most['size'])} with downloads, bound {_mb(self.library.limit_bytes)}"
            f" of {_mb(self.library.total_bytes)}, {self.evictions:.0f} objects evicted;"
            f" counted {self.counted_bytes:.0f}, stored {self.stored_bytes} bytes at the end",
            "memory": f"PSS {_mb(first.memory_bytes)} to {_mb(last.memory_bytes)},"
            f" line {_mb(growth(settled, 'memory_bytes'))};"
            f" RSS {_mb(first.resident_bytes)} to {_mb(last.resident_bytes)}",
            "handles": f"{first.handles} to {last.handles}, at most {most['handles']},"
            f" line {growth(settled, 'handles'):+.1f}; threads {first.threads} to {last.threads}",
            "files": f"at most {most['files']} temporary ones at once, {len(self.left_files)} left",
        }
        return "\n".join(f"{name:10}{text}" for name, text in lines.items())


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / _MEGABYTE:.1f} MB"


def bounded_mirror(registry: RegistryProcess, library: Library, *, workers: int) -> MirrorProcess:
    """Prepare a mirror whose cache holds a fifth of the images, and whose tags are soon asked about again."""
    extra = f'[cache]\nmin_free = "0"\nmax_size = "{library.limit_bytes}B"\ntag_ttl = "5s"\n[log]\nlevel = "warning"\n'
    return MirrorProcess({"docker.io": registry.base_url}, workers=workers, extra=extra)


@contextmanager
def running(pool: ThreadPoolExecutor, load: Load, *others: Watch | Weather, clients: int) -> Iterator[None]:
    """Run clients, and what goes on beside them, while the block runs; what one raises is raised."""
    running: list[Future[None]] = [pool.submit(load.run, number) for number in range(clients)]
    running += [pool.submit(one.run) for one in others]
    try:
        yield
    finally:
        for one in (load, *others):
            one.stop()
        for future in running:
            future.result()


def run_soak(
    plan: Plan, library: Library, registry: RegistryProcess, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Load a mirror for a while, look at it all the time, and say what came of it.

    "No failed pull that the upstream could have served" means:

    - Nothing that the mirror has to hide is seen by a client, in any weather: a transfer that is cut, reset, silent or
      slow, and ranges that are ignored. A body ends short only where the upstream sent wrong bytes for this digest.
    - An error before the body comes only in a storm or within seconds after it, when the upstream refuses requests: a
      429 with ``Retry-After`` holds all of them back, one that hangs is waited for, and the mirror tries again once.
    - A storm's faults hit one request each, and it ends. So a client that asks again is served: five times at most, as
      dockerd does, within ten seconds.
    """
    weather = Weather(registry, library, plan.seed)
    with (
        bounded_mirror(registry, library, workers=plan.workers) as mirror,
        ThreadPoolExecutor(plan.clients + 2) as pool,
    ):
        load, watch = Load(port=mirror.port, library=library, weather=weather, seed=plan.seed), Watch(mirror)
        with running(pool, load, watch, weather, clients=plan.clients):
            _wait(plan.seconds, lambda seconds: say(_progress(seconds, load.findings, watch.samples)))
        report = Report(plan=plan, library=library, findings=load.findings)
        report.faults, report.samples = weather.faults, watch.samples
        _look_at_the_rest(report, mirror)
    return report


def _wait(seconds: float, report: Callable[[float], None]) -> None:
    pause, began = threading.Event(), time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        pause.wait(min(_PROGRESS_SECONDS, left))
        report(time.monotonic() - began)


def _progress(seconds: float, findings: Findings, samples: Sequence[Sample]) -> str:
    last, pulls = samples[-1], findings.pulls
    return (
        f"{int(seconds) // 60:3}:{int(seconds) % 60:02}  {pulls['whole']} pulls, {pulls['refused']} refused,"
        f" {pulls['broken']} cut, {pulls['failures']} failures; {_mb(last.stored_bytes)} stored,"
        f" {_mb(last.partial_bytes)} coming; PSS {_mb(last.memory_bytes)}, {last.handles} handles"
    )


def _look_at_the_rest(report: Report, mirror: MirrorProcess) -> None:
    """Look at what is left when nobody asks any more."""
    report.left_files = until_at_rest(mirror)
    report.wrong_files = wrong_files(mirror.cache_folder)
    report.fills = mirror.metric("mirror_fills_in_progress")
    report.evictions = mirror.metric('mirror_evictions_total{reason="size"}')
    report.counted_bytes = mirror.metric("mirror_cache_bytes")
    report.stored_bytes = sum(path.stat().st_size for path in stored_files(mirror.cache_folder))
    events = [
        event for event in mirror.events() if event["level"] == "error" and event["event"] not in _EXPECTED_ERRORS
    ]
    report.errors = [str(event)[:1000] for event in events[:5]]


def until_at_rest(mirror: MirrorProcess) -> Sequence[str]:
    """Wait until no download is left; return the files of those that are, should they not end."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while left := sorted(path.name for path in (mirror.cache_folder / "partial").iterdir()):
        if time.monotonic() > deadline:
            return left
        threading.Event().wait(0.05)
    return ()


def stored_files(cache_folder: Path) -> list[Path]:
    """Return the files of all blobs and manifests."""
    return [path for path in (cache_folder / "blobs").rglob("*") if path.is_file()]


def wrong_files(cache_folder: Path) -> list[str]:
    """Hash every stored file; return the names of those that are not what they are called."""
    wrong = []
    for path in stored_files(cache_folder):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # evicted meanwhile
            continue
        if hashlib.new(path.parts[-3], content).hexdigest() != path.name:
            wrong.append(path.name)
    return wrong
