"""All downloads of this process, one a digest, each owned by the supervisor and by no request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mirror.engine.download import Download
from mirror.errors import MirrorError
from mirror.figures import Transfer
from mirror.ports import UNTRACED

if TYPE_CHECKING:
    from mirror.concurrency.supervisor import Supervisor
    from mirror.engine.source import Source
    from mirror.oci.digest import Digest
    from mirror.ports import BlobStore, DownloadObserver, Room, Tracer


class Downloads:
    """Starts downloads and lets everybody else join them."""

    def __init__(
        self,
        store: BlobStore,
        room: Room,
        supervisor: Supervisor,
        observer: DownloadObserver,
        tracer: Tracer = UNTRACED,
    ) -> None:
        """Join the parts."""
        self._store = store
        self._room = room
        self._supervisor = supervisor
        self._observer = observer
        self._tracer = tracer
        self._running: dict[Digest, Download] = {}
        self._ended = asyncio.Event()

    def __len__(self) -> int:
        return len(self._running)

    def transfers(self) -> list[Transfer]:
        """Return how far those in progress have come."""
        return [
            Transfer(
                digest=str(one.digest),
                repository=str(one.source.repository),
                size_bytes=one.size_bytes,
                done_bytes=one.readable_now(),
                followers=len(one.followers),
            )
            for one in self._running.values()
            if not one.is_complete and not one.has_failed
        ]

    def find(self, digest: Digest) -> Download | None:
        """Return the download in progress."""
        download = self._running.get(digest)
        return None if download is None or download.has_failed or not download.can_be_joined else download

    def start(self, digest: Digest, source: Source) -> Download:
        """Start a download that ``find`` has just not found; no await in between, or it may be started twice."""
        download = Download(digest, source, self._store, self._room, self._observer)
        self._running[digest] = download
        _ = self._supervisor.start(self._run(download), name=f"download {digest}")
        return download

    async def settle(self, digest: Digest) -> None:
        """Wait until a download of a digest, if one runs, has its name in the store, or has failed."""
        while digest in self._running:
            await self._ended.wait()

    async def _run(self, download: Download) -> None:
        try:
            await self._run_traced(download)
        finally:
            if self._running.get(download.digest) is download:
                del self._running[download.digest]
            self._ended.set()
            self._ended = asyncio.Event()

    async def _run_traced(self, download: Download) -> None:
        source = download.source
        facts = {
            "mirror.upstream": source.upstream.name,
            "mirror.repository": source.repository.name,
            "mirror.reference": str(download.digest),
        }
        with self._tracer.span("download", facts) as span:
            try:
                await download.run()
            except MirrorError as error:
                span.fail(str(error))
                raise
            finally:
                span.describe({"mirror.size_bytes": download.size_bytes})
