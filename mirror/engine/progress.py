"""How far a download has come in this process, and waiting until it has come further.

Followers see the bytes up to a small tail, which is withheld until the digest matches.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.errors import MirrorError

_LARGEST_TAIL_BYTES = 16 * 1024


def tail_bytes(size_bytes: int | None) -> int:
    """Return how much of the end waits for the digest to match: a quarter at most, so that a small blob flows."""
    if size_bytes is None:
        return _LARGEST_TAIL_BYTES
    return min(_LARGEST_TAIL_BYTES, -(-size_bytes // 4))


class Progress:
    """What the writer tells and the followers wait for; changes are synchronous, so that no lock is needed."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._changed = asyncio.Event()
        self.written_bytes = 0
        self.size_bytes: int | None = None
        self.is_open = False
        self.is_complete = False
        self.error: MirrorError | None = None

    def readable_now(self) -> int:
        """Return the end of what followers may read."""
        if self.is_complete:
            return self.written_bytes
        if self.size_bytes is None:
            return max(0, self.written_bytes - tail_bytes(None))
        return min(self.written_bytes, self.size_bytes - tail_bytes(self.size_bytes))

    async def readable_to(self, offset: int) -> int:
        """Wait until there is something at ``offset``; return the end of what can be read, ``offset`` at the end.

        Raises:
            MirrorError: the rest will not come.
        """
        while True:
            end = self.readable_now()
            if end > offset or self.is_complete:
                return end
            await self._change()

    async def opened(self) -> None:
        """Wait until the upstream has begun to answer; an empty body, which has no tail, is verified first.

        Raises:
            MirrorError: it refused, or could not be reached; the empty body was the wrong one.
        """
        while not self.is_open or (self.size_bytes == 0 and not self.is_complete):
            await self._change()

    async def _change(self) -> None:
        if self.error is not None:
            raise self.error
        await self._changed.wait()

    # ---- changes

    def open(self, size_bytes: int | None) -> None:
        """The answer has begun; its whole size, where the upstream tells."""
        self.size_bytes = size_bytes
        self.is_open = True
        self._wake()

    def advance(self, written_bytes: int) -> None:
        """So much is there."""
        if written_bytes != self.written_bytes:
            self.written_bytes = written_bytes
            self._wake()

    def complete(self, size_bytes: int) -> None:
        """All of it is there, and verified."""
        self.written_bytes = self.size_bytes = size_bytes
        self.is_open = self.is_complete = True
        self._wake()

    def fail(self, error: MirrorError) -> None:
        """No more of it will come; what is complete stays so."""
        if not self.is_complete:
            self.error = error
        self._wake()

    def _wake(self) -> None:
        """Wake whoever waits; each looks for itself what has changed."""
        self._changed.set()
        self._changed = asyncio.Event()
