"""A process that may use no more than a part of a core, by a control group of its own (Linux's cgroups, v1 and v2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_V1 = _ROOT / "cpu"
_PERIOD_MICROSECONDS = 10_000


@contextmanager
def limited(pid: int, share: float) -> Iterator[None]:
    """Hold a process to a share of a core while the block runs.

    Raises:
        OSError: this user may not, or the machine has no control groups.
    """
    parent = _V1 if _V1.is_dir() else _ROOT
    group = parent / f"bench-{pid}"
    group.mkdir()
    try:
        quota = int(share * _PERIOD_MICROSECONDS)
        if parent is _V1:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS), encoding="ascii")
            (group / "cpu.cfs_quota_us").write_text(str(quota), encoding="ascii")
        else:
            (parent / "cgroup.subtree_control").write_text("+cpu", encoding="ascii")
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}", encoding="ascii")
        (group / "cgroup.procs").write_text(str(pid), encoding="ascii")
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(pid), encoding="ascii")
        group.rmdir()
