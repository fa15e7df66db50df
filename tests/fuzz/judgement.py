"""What must not have happened to a mirror that was fuzzed, looked at from outside."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tests.support.mirrors import MirrorProcess

_FAILURES = {"request.failed", "task.failed", "store.failed", "index.failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What the workers of a mirror hold together."""

    resident_bytes: int
    handles: int
    threads: int

    @classmethod
    def of(cls, mirror: MirrorProcess) -> Holdings:
        """Look."""
        folders = [Path(f"/proc/{pid}") for pid in mirror.worker_pids]
        resident = [int((one / "statm").read_text(encoding="ascii").split()[1]) * 4096 for one in folders]
        handles = [len(list((one / "fd").iterdir())) for one in folders]
        threads = [len(list((one / "task").iterdir())) for one in folders]
        return cls(resident_bytes=sum(resident), handles=sum(handles), threads=sum(threads))

    def __str__(self) -> str:
        return f"{self.resident_bytes / 1e6:.0f} MB, {self.handles} handles, {self.threads} threads"


def wrong_files(folder: Path) -> list[Path]:
    """Return the stored blobs whose content is not what their names say."""
    return [path for path in _stored(folder) if hashlib.new(path.parts[-3], path.read_bytes()).hexdigest() != path.name]


def count_files(folder: Path) -> int:
    """Return how many blobs are stored."""
    return len(_stored(folder))


def _stored(folder: Path) -> list[Path]:
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


def failures(mirror: MirrorProcess) -> list[str]:
    """Return the lines of the log that nobody should see: tracebacks, and events of something that failed."""
    found = []
    with mirror.log_path.open(encoding="utf-8", errors="replace") as log:
        for line in log:
            event = json.loads(line).get("event") if line.startswith("{") else None
            if event in _FAILURES or "Traceback" in line or "exception was never retrieved" in line:
                found.append(line[:2000])
    return found
