"""Stored blobs whose files somebody has changed since they were stored: hashed before all of one is sent.

A small one is hashed before its answer begins, so that one which is damaged is fetched again and nobody notices. A
large one is sent while it is hashed, but for a tail that waits for the digest, as in a download: if it does not match,
the body is cut short, and whoever asks next gets it fetched again.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from typing import TYPE_CHECKING, Final

import structlog

from mirror.engine.progress import tail_bytes
from mirror.errors import StorageError

if TYPE_CHECKING:
    from mirror.concurrency.supervisor import Supervisor
    from mirror.oci.digest import Digest
    from mirror.ports import BlobStore, Body, DamageObserver, StoredBlob

log = structlog.get_logger(__name__)

_AT_ONCE_BYTES: Final = 16 * 1024 * 1024  # hashed in a hundredth of a second or so


class Doubts:
    """Settles whether stored blobs are what they should be, each once at a time."""

    def __init__(self, store: BlobStore, supervisor: Supervisor, observer: DamageObserver) -> None:
        """Join the parts."""
        self._store = store
        self._supervisor = supervisor
        self._observer = observer
        self._running: dict[tuple[Digest, int], asyncio.Task[bool]] = {}

    async def find(self, digest: Digest) -> Body | None:
        """Open a stored blob for sending; one that turns out to be damaged is removed, and as good as not there.

        Raises:
            StorageError: it cannot be read.
        """
        stored = await self._store.find(digest)
        if stored is None or not stored.is_doubted:
            return stored
        return await self._settle(digest, stored)

    async def _settle(self, digest: Digest, stored: StoredBlob) -> Body | None:
        try:
            examination = self._examine(digest, stored)
            if stored.size_bytes > _AT_ONCE_BYTES:
                return DoubtedBody(stored, examination, digest)
            is_right = await asyncio.shield(examination)
        except BaseException:
            stored.close()
            raise
        if is_right:
            return stored
        stored.close()
        return None

    async def condemn(self, digest: Digest) -> None:
        """Remove a blob that is known to be damaged."""
        self.note(digest)
        try:
            await self._store.remove([digest])
        except StorageError as error:
            log.error("store.failed", digest=str(digest), error=str(error))

    def note(self, digest: Digest) -> None:
        """Say that a blob was damaged, and is removed."""
        log.error("blob.damaged", digest=str(digest))
        self._observer.blob_damaged()

    def _examine(self, digest: Digest, stored: StoredBlob) -> asyncio.Task[bool]:
        key = (digest, os.fstat(stored.fileno()).st_ino)
        running = self._running.get(key)
        if running is None:
            running = self._supervisor.start(self._run(digest, stored.share()), name=f"examine {digest}")
            self._running[key] = running
            running.add_done_callback(lambda _: self._running.pop(key, None))
        return running

    async def _run(self, digest: Digest, stored: StoredBlob) -> bool:
        with closing(stored):
            is_right = await self._store.examine(digest, stored)
        if not is_right:
            self.note(digest)
        return is_right


class DoubtedBody:
    """A large stored blob that is sent while it is hashed."""

    def __init__(self, stored: StoredBlob, examination: asyncio.Task[bool], digest: Digest) -> None:
        """Take over an open blob."""
        self._stored = stored
        self._examination = examination
        self._digest = digest

    @property
    def size_bytes(self) -> int:
        """The whole size."""
        return self._stored.size_bytes

    def fileno(self) -> int:
        """Return the open descriptor."""
        return self._stored.fileno()

    def readable_now(self) -> int:
        """Return the end of what need not wait for the digest."""
        if self._examination.done() and not self._examination.cancelled() and self._examination.result():
            return self.size_bytes
        return self.size_bytes - tail_bytes(self.size_bytes)

    async def readable_to(self, offset: int) -> int:
        """Wait with the tail until the digest has matched.

        Raises:
            StorageError: it has not.
        """
        end = self.readable_now()
        if offset >= end and not await asyncio.shield(self._examination):
            raise StorageError(f"{self._digest} was damaged in the store; it is fetched again when somebody asks")
        return self.readable_now()

    def close(self) -> None:
        """Let go of the file; the examination goes on."""
        self._stored.close()
