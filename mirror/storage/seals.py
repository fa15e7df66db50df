"""The seal of a stored file: a time of last change that was chosen, so that any later change of the file shows.

Its whole seconds are when the file was stored, and its microseconds follow from the digest. Whoever writes to the file
sets another time, by one chance in a million the same one. So the `fstat` that a hit makes anyway says whether the file
may still be trusted. Bits that rot on the disk change no time: the background check hashes for that.

Where a seal cannot be kept (a read-only disk, whole seconds only), a file that was found right is remembered by this
process, by what it was like.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mirror.oci.digest import Digest

_SECOND: Final = 1_000_000_000  # in nanoseconds
_MICROSECOND: Final = 1_000
_REMEMBERED: Final = 50_000


def is_sealed(status: os.stat_result, digest: Digest) -> bool:
    """Say whether a file has not been written to since it was sealed."""
    return status.st_mtime_ns % _SECOND == _fraction(digest)


def seal(descriptor: int, digest: Digest) -> None:
    """Seal a file whose content is right.

    Raises:
        OSError: its times cannot be set.
    """
    status = os.fstat(descriptor)
    whole = status.st_mtime_ns - status.st_mtime_ns % _SECOND
    os.utime(descriptor, ns=(status.st_atime_ns, whole + _fraction(digest)))


def _fraction(digest: Digest) -> int:
    """Return nanoseconds, never 0: that is what a file system or an archive keeps that knows whole seconds only."""
    return (int(digest.encoded[:8], 16) % (_SECOND // _MICROSECOND - 1) + 1) * _MICROSECOND


class Seals:
    """Which stored files may be trusted as they are."""

    def __init__(self) -> None:
        """Know of none but by their seals."""
        self._found_right: OrderedDict[Digest, tuple[int, int, int]] = OrderedDict()

    def holds(self, status: os.stat_result, digest: Digest) -> bool:
        """Say whether a file has not changed since it was written, or was last found right."""
        return is_sealed(status, digest) or self._found_right.get(digest) == _state(status)

    def renew(self, descriptor: int, digest: Digest) -> None:
        """Trust a file whose content was found right."""
        with contextlib.suppress(OSError):
            seal(descriptor, digest)
        status = os.fstat(descriptor)
        if not is_sealed(status, digest):
            self._found_right[digest] = _state(status)
            if len(self._found_right) > _REMEMBERED:
                self._found_right.popitem(last=False)


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
