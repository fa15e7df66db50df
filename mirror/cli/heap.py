"""What a server does about its own memory: a process that lives for years, at a size that stays what it was.

Python's collector would look through everything that has been there since the start, over and over. The C library puts
a large block, once one has been freed, between small ones that stay: what is freed later leaves holes, more and more.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_COLLECTED_AFTER_OBJECTS: Final = 10_000

# <malloc.h>: https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE_BYTES: Final = 64 * 1024
_KEPT_AT_THE_TOP_BYTES: Final = 1024 * 1024
_ARENAS: Final = 2


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Collect nothing while modules are imported, of which nothing is garbage: a twelfth of what a start takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep_small() -> None:
    """Have large blocks mapped by themselves, and given back when they are freed; before threads and workers begin.

    Does nothing where the C library is not glibc.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _LARGE_BYTES)
        set_option(_TRIM_THRESHOLD, _KEPT_AT_THE_TOP_BYTES)
        set_option(_ARENA_MAX, _ARENAS)


def settle() -> None:
    """Let full collections pass over what is there now and stays; one in a few requests would be full otherwise."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER_OBJECTS)
