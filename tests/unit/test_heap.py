"""What a server gives back of its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROGRAM = f"""
import sys
from pathlib import Path
from mirror.cli import heap

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * {_PAGE_BYTES}

if sys.argv[1] == "kept small":
    heap.keep_small()
block = bytearray(b"x") * 300_000
del block
before = resident_bytes()
large, small = [], []
for number in range(200):
    large.append(bytearray(b"x") * 250_000)
    small.append(bytearray(b"x") * 1000)
del large
print(resident_bytes() - before)
"""


def _grown_bytes(how: str) -> int:
    command = [sys.executable, "-c", _PROGRAM, how]
    return int(subprocess.run(command, cwd=_ROOT, env={"PATH": ""}, capture_output=True, check=True).stdout)


def test_what_is_large_leaves_no_holes_between_what_is_small() -> None:
    assert _grown_bytes("as it is") > 40_000_000, "the C library leaves none by itself: this proves nothing"
    assert _grown_bytes("kept small") < 5_000_000
