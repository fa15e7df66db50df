"""What the processes of a mirror hold, looked at from outside while they work."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression

from tests.support.mirrors import MirrorProcess

_EVERY_SECONDS = 0.5
_KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look; sizes in bytes, memory and handles of all workers together."""

    seconds: float
    stored_bytes: int
    partial_bytes: int
    expected_bytes: int
    memory_bytes: int
    resident_bytes: int
    handles: int
    threads: int
    temporary_files: int

    def excess_bytes(self, limit_bytes: int) -> int:
        """Return by how much the size on disk is over the bound, downloads in progress left out."""
        return self.stored_bytes + self.partial_bytes - limit_bytes - self.expected_bytes


def take_sample(mirror: MirrorProcess, seconds: float) -> Sample:
    """Look at the disk and at the workers."""
    partials = _sizes(mirror.cache_folder / "partial")
    announced = {name: _announced(mirror.cache_folder / "partial" / f"{name}.origin") for name in partials}
    stored = _sizes(mirror.cache_folder / "blobs")
    downloads = {
        name: size for name, size in partials.items() if "." not in name and name.partition("-")[2] not in stored
    }
    pids = mirror.worker_pids
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii") for pid in pids]
    return Sample(
        seconds=seconds,
        stored_bytes=sum(stored.values()),
        partial_bytes=sum(downloads.values()),
        expected_bytes=sum(max(size, announced[name]) for name, size in downloads.items()),
        memory_bytes=sum(_field(text, "Pss") for text in rollups),
        resident_bytes=sum(_field(text, "Rss") for text in rollups),
        handles=sum(_count(Path(f"/proc/{pid}/fd")) for pid in pids),
        threads=sum(_count(Path(f"/proc/{pid}/task")) for pid in pids),
        temporary_files=len(partials),
    )


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _sizes(folder: Path) -> dict[str, int]:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found[name] = Path(place, name).stat().st_size
    return found


def _announced(origin: Path) -> int:
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads(origin.read_text(encoding="utf-8"))["size"] or 0)
    return 0


def _field(text: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) * _KIB if match else 0


@dataclass(slots=True)
class Watch:
    """Samples taken all the time."""

    mirror: MirrorProcess
    samples: list[Sample] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def run(self) -> None:
        """Look until stopped."""
        began = time.monotonic()
        while not self._stopped.wait(_EVERY_SECONDS):
            self.samples.append(take_sample(self.mirror, time.monotonic() - began))


def growth(samples: Sequence[Sample], name: str) -> float:
    """Return by how much a figure grew over the samples, by the line that fits them best."""
    values = [float(getattr(sample, name)) for sample in samples]
    seconds = [sample.seconds for sample in samples]
    return linear_regression(seconds, values).slope * (seconds[-1] - seconds[0])
