"""Mutual exclusion among the worker processes of one cache, by key, without a file for each key."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mirror.storage.files import open_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_FIRST_WAIT_SECONDS = 0.001
_LONGEST_WAIT_SECONDS = 0.005


class FileLocks:
    """POSIX locks on single bytes of one file, the byte chosen by a hash of the key; the kernel frees a dead holder's.

    Such a lock belongs to the process: within one, callers are kept apart by their own single flight. Two keys that
    share a byte (one chance in 2**62) would at worst be asked for twice.
    """

    def __init__(self, path: Path) -> None:
        """Open the lock file; it stays open: closing any descriptor of it frees all of the process's locks."""
        self._descriptor = open_file(path, os.O_RDWR | os.O_CREAT)

    @asynccontextmanager
    async def hold(self, key: str, *, longest_wait_seconds: float = _LONGEST_WAIT_SECONDS) -> AsyncIterator[None]:
        """Wait for the key and keep it while the block runs; look no less often than ``longest_wait_seconds``."""
        byte = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 2
        wait_seconds = _FIRST_WAIT_SECONDS
        while not self._try(byte):
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, longest_wait_seconds)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, byte)

    def _try(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # POSIX allows either for "somebody else has it"
            return False
        return True

    def close(self) -> None:
        """Free everything."""
        os.close(self._descriptor)
