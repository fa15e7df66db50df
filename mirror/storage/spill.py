"""Bytes that pass through memory because there is no room to store them: an unnamed file that gives back what was read.

Offsets are those of the blob, so that ``sendfile`` works on it as on a stored one; only what was not released takes
memory.
"""

from __future__ import annotations

import ctypes
import os

_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02  # linux/falloc.h; Python has posix_fallocate only
# A hole that begins or ends within a page is zeroed there in place, under a socket to which sendfile has lent the page.
# So whole pages go, and whole huge ones, where the kernel uses these.
_ALIGNMENT_BYTES = 2 * 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


class Spill:
    """An unnamed file in memory."""

    def __init__(self, start: int) -> None:
        """Make one whose first byte is at ``start``.

        Raises:
            OSError: there is none to be had.
        """
        self.start = start
        self.descriptor = os.memfd_create("mirror-spill", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, start)
        self._released = 0

    def size(self) -> int:
        """Return the offset of its end."""
        return os.fstat(self.descriptor).st_size

    def release(self, offset: int) -> None:
        """Give the memory of bytes below ``offset`` back, but for the last few; they are not to be read again."""
        offset -= offset % _ALIGNMENT_BYTES
        if offset <= self._released:
            return
        if _fallocate(self.descriptor, _KEEP_SIZE_AND_PUNCH_HOLE, self._released, offset - self._released):
            raise OSError(ctypes.get_errno(), "cannot release memory")
        self._released = offset

    def close(self) -> None:
        """Give all of it back."""
        os.close(self.descriptor)
