"""Hashing one stored file from end to end."""

from __future__ import annotations

import mmap
import os
import threading
from typing import TYPE_CHECKING, Final

from mirror.storage.files import remove_if_same

if TYPE_CHECKING:
    from mirror.oci.digest import Digest
    from mirror.storage.files import Layout
    from mirror.storage.seals import Seals

_STEP_BYTES: Final = 1024 * 1024


class Check:
    """One file being hashed, step by step; every call may raise OSError.

    It is read past the page cache where the file system allows: what is hot stays in there, and a sound copy in there
    does not hide what has become of the one on the disk.
    """

    def __init__(self, layout: Layout, digest: Digest) -> None:
        """Open a stored file."""
        self._path = layout.blob(digest)
        self._digest = digest
        self._hasher = digest.hasher()
        self._buffer = mmap.mmap(-1, _STEP_BYTES)  # aligned, as direct reading wants it
        self._is_direct = True
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags | os.O_DIRECT)
        except FileNotFoundError:
            raise
        except OSError:
            self._is_direct = False
            self._descriptor = os.open(self._path, flags)
        self._offset = 0
        self._in_use = threading.Lock()

    def step(self) -> int:
        """Hash the next stretch; return how long it was, 0 at the end."""
        with self._in_use:
            return self._step()

    def _step(self) -> int:
        size_bytes = os.preadv(self._descriptor, [self._buffer], self._offset)
        with memoryview(self._buffer) as view, view[:size_bytes] as read:
            self._hasher.update(read)
        if not self._is_direct:
            os.posix_fadvise(self._descriptor, self._offset, size_bytes, os.POSIX_FADV_DONTNEED)
        self._offset += size_bytes
        return size_bytes

    def settle(self, seals: Seals) -> bool:
        """Say whether the file is what it should be; trust it from now on, or take its name away."""
        if not self._digest.matches(self._hasher):
            remove_if_same(self._path, self._descriptor)
            return False
        if not seals.holds(os.fstat(self._descriptor), self._digest):
            seals.renew(self._descriptor, self._digest)
        return True

    def close(self) -> None:
        """Close the file, after a step that a thread is still taking for somebody who has given up."""
        with self._in_use:
            os.close(self._descriptor)
            self._buffer.close()
