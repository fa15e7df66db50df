"""Files that somebody else replaces, followed by their state.

They are looked at rather than announced by the kernel: network file systems and the links that Kubernetes turns over
announce nothing, or not to us.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_INTERVAL_SECONDS = 1.0
_State = tuple[tuple[int, ...] | None, ...]


def _nothing() -> None:
    pass


class WatchedFiles:
    """Some files that belong together; made before they are first read, so that no later change is missed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Note how the files are now."""
        self._paths = tuple(paths)
        self._taken = self._state()

    async def follow(self, reload: Callable[[], None], *, looked: Callable[[], None] = _nothing) -> NoReturn:
        """Call ``reload``, in a thread, whenever the files have changed and nobody seems to be writing them any more.

        ``looked`` is called each time that they are looked at.
        """
        before = self._taken
        while True:
            looked()
            await asyncio.sleep(_INTERVAL_SECONDS)
            now = await asyncio.to_thread(self._state)
            if now == before and now != self._taken:
                self._taken = now
                await asyncio.to_thread(reload)
            before = now

    def _state(self) -> _State:
        return tuple(_state(path) for path in self._paths)


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - follows links, as reading does
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
