"""What server processes use: CPU time and memory, as the kernel counts them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_AGAIN_SECONDS = 0.3
_IDLE_SHARE = 0.1
_PATIENCE_SECONDS = 20
_MEMORY = re.compile(r"^(VmRSS|VmHWM):\s+(\d+) kB$", re.MULTILINE)


@dataclass(slots=True)
class Usage:
    """CPU and wall-clock seconds of a stretch of time; complete when its block has ended."""

    cpu_seconds: float = 0.0
    seconds: float = 0.0


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return user and system time of processes with all their threads."""
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS


def resident_bytes(pids: Sequence[int], *, peak: bool = False) -> int:
    """Return what the processes hold in memory, or held at most since they began or `forget_peak` was called."""
    key = "VmHWM" if peak else "VmRSS"
    return sum(_memory(pid)[key] for pid in pids)


def _memory(pid: int) -> dict[str, int]:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return {name: int(kib) * 1024 for name, kib in _MEMORY.findall(status)}


def forget_peak(pids: Sequence[int]) -> None:
    """Begin the peak anew."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


@contextmanager
def used_by(pids: Sequence[int]) -> Iterator[Usage]:
    """Measure what processes use while the block runs."""
    usage = Usage()
    before, started = cpu_seconds(pids), time.perf_counter()
    yield usage
    usage.seconds = time.perf_counter() - started
    usage.cpu_seconds = cpu_seconds(pids) - before


def wait_until_idle(pids: Sequence[int]) -> None:
    """Wait until processes do next to nothing: what they do after the last byte belongs to them, and disturbs others.

    Raises:
        TimeoutError: they go on and on.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with used_by(pids) as used:
            time.sleep(_LOOK_AGAIN_SECONDS)
        if used.cpu_seconds < _IDLE_SHARE * used.seconds:
            return
    raise TimeoutError(f"processes {pids} are not idle after {_PATIENCE_SECONDS} s")
