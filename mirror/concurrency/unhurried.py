"""Long work in a thread, a little at a time.

Python runs one thread at a time, and one that waits for another to be interrupted waits 5 ms each time. A request goes
through several threads, so work that goes on for long holds it up by tens of milliseconds, however slight it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

REST: Final = 4.0  # times as long as what was done before
_STRETCH_SECONDS: Final = 0.001


def unhurried(items: Iterable[T]) -> Iterator[T]:
    """Yield items, with a rest whenever the work on them has taken a millisecond; not for a thread that others need."""
    began = time.perf_counter()
    for item in items:
        yield item
        took = time.perf_counter() - began
        if took > _STRETCH_SECONDS:
            time.sleep(REST * took)
            began = time.perf_counter()
