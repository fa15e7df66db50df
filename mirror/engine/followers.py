"""The followers of a download, and where they are: what all have read of a blob that is not stored can be let go."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mirror.errors import StorageError

if TYPE_CHECKING:
    from mirror.engine.download import Download

WINDOW_BYTES = 8 * 1024 * 1024


class Followers:
    """The offset up to which each follower has read."""

    def __init__(self) -> None:
        """Begin without any."""
        self._offsets: dict[object, int] = {}
        self._moved = asyncio.Event()

    def __len__(self) -> int:
        return len(self._offsets)

    def move(self, follower: object, offset: int) -> None:
        """Note that a follower needs nothing below ``offset`` any more."""
        self._offsets[follower] = offset
        self._moved.set()

    def leave(self, follower: object) -> None:
        """Forget a follower."""
        self._offsets.pop(follower, None)
        self._moved.set()

    async def come_near(self, written_bytes: int, start: int) -> int:
        """Wait until the slowest is less than a window behind the writer; return what nobody needs any more.

        Raises:
            StorageError: nobody follows, so that there is nothing to write for.
        """
        while self._offsets:
            slowest = max(start, min(self._offsets.values()))
            if written_bytes - slowest < WINDOW_BYTES:
                return slowest
            self._moved.clear()
            await self._moved.wait()
        raise StorageError("there is no room to store it, and nobody is left to send it to")


class DownloadBody:
    """One follower's view of a download."""

    def __init__(self, download: Download) -> None:
        """Take over one use of the download's file."""
        self._download = download
        self._offset = 0
        self._is_closed = False
        download.followers.move(self, 0)

    @property
    def size_bytes(self) -> int | None:
        """The whole size; None where the upstream does not tell."""
        return self._download.size_bytes

    def fileno(self) -> int:
        """Return a descriptor to read from, at offsets below what ``readable_to`` has returned."""
        return self._download.fileno_at(self._offset)

    def readable_now(self) -> int:
        """Return the end of what can be read without waiting."""
        return self._download.end_at(self._offset, self._download.readable_now())

    async def readable_to(self, offset: int) -> int:
        """Wait until there is something at ``offset``; return the end of what can be read, ``offset`` at the end."""
        self._offset = offset
        self._download.followers.move(self, offset)
        return self._download.end_at(offset, await self._download.readable_to(offset))

    def close(self) -> None:
        """Stop following; the download goes on."""
        if not self._is_closed:
            self._is_closed = True
            self._download.followers.leave(self)
            self._download.leave()
