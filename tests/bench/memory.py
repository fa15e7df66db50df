"""Memory that the machine has used before, so that its owner's work is not measured in place of the servers'.

A virtual machine may have given free memory back to its host. The first use of a page costs it 20 to 30 microseconds
then, and a file of 128 MB 0.8 s, whoever writes it: every figure would depend on what ran before.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK_BYTES = 2 * 1024 * 1024  # what is given back is free in one piece of that size at least
_KEPT_BYTES = 32 * 1024
_AVAILABLE = re.compile(r"^MemAvailable: +(\d+) kB$", re.MULTILINE)


@contextmanager
def used_before(size_bytes: int) -> Iterator[None]:
    """Use memory, or half of what is available, once; free all but a little of each block, which so stays here."""
    found = _AVAILABLE.search(Path("/proc/meminfo").read_text(encoding="ascii"))
    available_bytes = int(found[1]) * 1024 if found else 0
    blocks = min(size_bytes, available_bytes // 2) // _BLOCK_BYTES
    with mmap.mmap(-1, (blocks + 1) * _BLOCK_BYTES) as memory:
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = 1
        for offset in range(0, len(memory), _BLOCK_BYTES):
            memory.madvise(mmap.MADV_DONTNEED, offset + _KEPT_BYTES, _BLOCK_BYTES - _KEPT_BYTES)
        yield
