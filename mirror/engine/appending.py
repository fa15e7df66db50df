"""Where the bytes of a download go: into its file, and where there is no room for them, through memory.

Then they go no further ahead than the slowest follower allows, and what all have read is let go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from mirror.errors import StorageError
from mirror.oci.requests import Kind
from mirror.ports import Origin

if TYPE_CHECKING:
    from mirror.engine.followers import Followers
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.ports import Bytes, DownloadObserver, PartialBlob, Room

log = structlog.get_logger(__name__)


class Appender:
    """Appends to the file of one download."""

    def __init__(self, digest: Digest, followers: Followers, room: Room, observer: DownloadObserver) -> None:
        """Prepare."""
        self._digest = digest
        self._followers = followers
        self._room = room
        self._observer = observer
        self._released_bytes = 0
        self.spilled_at: int | None = None

    @property
    def is_unstored(self) -> bool:
        """Whether it goes through memory for want of room."""
        return self.spilled_at is not None

    @property
    def has_everything(self) -> bool:
        """Whether all of it is still there for who comes now."""
        return self.spilled_at is None or self._released_bytes <= self.spilled_at

    async def announce(self, partial: PartialBlob, repository: Repository, size_bytes: int | None) -> None:
        """Tell other workers, and the next start, what this will be, where there is room for it."""
        if self.is_unstored:
            return
        if not self._room.has_room_for(size_bytes):
            self._spill(partial, "there is no room for it")
            return
        try:
            await partial.announce(Origin(repository=repository, kind=Kind.BLOB, size_bytes=size_bytes))
            self._room.note_change()
        except StorageError as error:
            self._spill(partial, str(error))

    async def append(self, partial: PartialBlob, content: Bytes) -> None:
        """Append bytes, into memory those that the disk does not take.

        Raises:
            StorageError: neither takes them, or nobody is left who would.
        """
        start = partial.written_bytes()
        if not self.is_unstored:
            try:
                await self._store(partial, content, start)
            except StorageError as error:
                self._spill(partial, str(error))
                content = content[partial.written_bytes() - start :]
        if self.spilled_at is not None:
            self._released_bytes = await self._followers.come_near(partial.written_bytes(), self.spilled_at)
            partial.release(self._released_bytes)
            await partial.append(content)

    async def _store(self, partial: PartialBlob, content: Bytes, start: int) -> None:
        try:
            await partial.append(content)
        except StorageError:
            await self._room.make_room()
            await partial.append(content[partial.written_bytes() - start :])

    def _spill(self, partial: PartialBlob, reason: str) -> None:
        """Store no more of it; what comes goes to those who follow."""
        partial.spill()
        self.pass_on(partial, reason)

    def pass_on(self, partial: PartialBlob, reason: str) -> None:
        """Go on with one that has been spilled."""
        self.spilled_at = partial.spilled_at
        self._released_bytes = self.spilled_at or 0
        self._observer.fill_unstored()
        log.warning("download.unstored", digest=str(self._digest), error=reason)
