"""Holds the accounts against what is there, slowly, behind the scenes: files, and what is written down beside them.

At each start and once a day, in one worker of all:

1. For each repository, what is written down and not accounted for is read again: so accounts that were lost, or are
   those of yesterday, become right.
2. Folder by folder, files without account are accounted for (a process was killed between the two), accounts without
   file are struck, and files that were forgotten and not removed are removed. It begins where the last walk ended.

Each step is short, and is followed by a pause four times as long.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from mirror.concurrency.unhurried import REST
from mirror.errors import MirrorError
from mirror.oci.manifest import MANIFEST_LIMIT_BYTES, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.engine.eviction import Eviction, Memory
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.ports import BlobStore, Bookkeeping, Files, Locks, Notes, Record, Records

log = structlog.get_logger(__name__)

_AGAIN_SECONDS: Final = 24 * 3600.0
_START_SECONDS: Final = 2.0  # the first moments are for who has waited for the start
_TURN_SECONDS: Final = 30.0  # another worker takes over that soon
_SHORTEST_REST_SECONDS: Final = 0.01
_BATCH: Final = 64
_ROWS: Final = 100
_PLACE: Final = "walked to"


class Upkeep:
    """Walks through the cache again and again."""

    def __init__(
        self,
        *,
        records: Records,
        accounts: Bookkeeping,
        files: Files,
        store: BlobStore,
        notes: Notes,
        locks: Locks,
        eviction: Eviction,
        memory: Memory,
    ) -> None:
        """Join the parts; ``memory`` is told of what is gone."""
        self._eviction = eviction
        self._records = records
        self._accounts = accounts
        self._files = files
        self._store = store
        self._notes = notes
        self._locks = locks
        self._memory = memory
        self._began = 0.0

    async def run(self) -> None:
        """Walk through everything, and again each day, until cancelled; wait while another worker does."""
        await asyncio.sleep(_START_SECONDS)
        async with self._locks.hold("upkeep", longest_wait_seconds=_TURN_SECONDS):
            while True:
                try:
                    await self.restore()
                    await self.walk()
                except (MirrorError, OSError) as error:
                    log.warning("upkeep.failed", error=str(error))
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _rest(self) -> None:
        """Pause after a step, in proportion to how long it took."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(_SHORTEST_REST_SECONDS, REST * (loop.time() - self._began)))
        self._began = loop.time()

    # ---- what is written down

    async def restore(self) -> None:
        """Account for what is written down and is not accounted for."""
        self._began = asyncio.get_running_loop().time()
        for repository in await self._records.repositories():
            if not await self._records.compact(repository):
                await self._accounts.retire(repository)
                continue
            await self._accounts.catch_up(repository)
            record = await self._records.read(repository, await self._accounts.find_mark(repository))
            if record is not None:
                await self._restore(record)
            await self._rest()

    async def _restore(self, record: Record) -> None:
        manifests = list(record.manifests)
        for first in range(0, len(manifests), _BATCH):
            for digest in await self._accounts.lacking(record.repository, manifests[first : first + _BATCH]):
                await self._restore_manifest(record.repository, digest, record.manifests[digest])
            await self._rest()
        rows = max(len(record.blobs), len(record.tags), len(record.pins))
        for first in range(0, rows, _ROWS):
            await self._accounts.restore(_part(record, first))
            await self._rest()
        await self._accounts.restore(replace(record, blobs=(), tags=(), pins=()))

    async def _restore_manifest(self, repository: Repository, digest: Digest, media_type: str) -> None:
        file = await self._files.find(digest)
        body = await self._store.read(digest, limit_bytes=MANIFEST_LIMIT_BYTES)
        if file is None or body is None:
            return
        try:
            manifest = parse(body, content_type=media_type, digest=digest)
        except MirrorError as error:  # somebody has written down something else about it
            log.debug("upkeep.manifest_left_out", digest=str(digest), error=str(error))
            return
        await self._accounts.restore_manifest(repository, manifest, file.stored_at)

    # ---- files

    async def walk(self) -> None:
        """Hold every folder's files against the accounts once."""
        self._began = asyncio.get_running_loop().time()
        await self._files.sweep()
        async with self._eviction.held_off():
            await self._remove_doomed()
        shelves = await self._files.shelves()
        place = await self._notes.find_note(_PLACE) or ""
        first = next((number for number, shelf in enumerate(shelves) if shelf > place), 0)
        for shelf in (*shelves[first:], *shelves[:first]):
            await self._hold(shelf)
            await self._notes.put_note(_PLACE, shelf)
            await self._rest()

    async def _hold(self, shelf: str) -> None:
        files, accounts = await self._files.on_shelf(shelf), await self._accounts.on_shelf(shelf)
        strangers = [digest for digest in files if digest not in accounts]
        missing = [digest for digest in accounts if digest not in files]
        for digests in (strangers, missing):
            for first in range(0, len(digests), _BATCH):
                async with self._eviction.held_off():
                    await self._settle(digests[first : first + _BATCH])
        if strangers or missing:
            log.info("upkeep.corrected", shelf=shelf, unaccounted=len(strangers), missing=len(missing))

    async def _settle(self, digests: Sequence[Digest]) -> None:
        """Look again, one by one, now that nobody evicts."""
        found, gone = [], []
        for digest in digests:
            if await self._files.is_on_its_way(digest):  # it is accounted for before it gets its name
                continue
            file = await self._files.find(digest)
            if file is None:
                gone.append(digest)
            else:
                found.append((digest, file.size_bytes, file.stored_at))
        if found:
            await self._accounts.restore_blobs(found)
        if gone:
            await self._memory.forget(await self._accounts.strike(gone))

    async def _remove_doomed(self) -> None:
        before: Sequence[Digest] = ()
        while (doomed := await self._accounts.doomed(_BATCH)) and doomed != before:
            await self._files.remove(doomed)
            await self._accounts.bury(doomed)
            before = doomed


def _part(record: Record, first: int) -> Record:
    """Return so many rows of each kind; not up to the mark yet, so that a process that dies has them read again."""
    rows = slice(first, first + _ROWS)
    return replace(record, mark="", blobs=record.blobs[rows], tags=record.tags[rows], pins=record.pins[rows])
