"""Keeps the store within its bounds, oldest use first, while serving; of several workers one evicts at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import structlog

from mirror.errors import StorageError
from mirror.policy import EvictionReason, excess_bytes, fits, room_to_make

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mirror.engine.usage import Usage
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.policy import Bounds
    from mirror.ports import Accounts, EvictionObserver, Locks, Removal, Shelves

log = structlog.get_logger(__name__)

_TICK_SECONDS = 1.0  # other workers store too, and other programs fill the disk
_BATCH_OBJECTS = 16
EVICTION_LOCK = "evict"
_USAGE_SECONDS = 1.0  # a long eviction spares what is used while it goes on
_FREEING_SECONDS = 1.0  # what is still being sent frees its room only afterwards


class Memory(Protocol):
    """What is held in memory of content that may go."""

    async def forget(self, removal: Removal) -> None:
        """Forget what was removed."""
        ...

    async def account(self, repository: Repository, digest: Digest) -> None:
        """Account for a manifest that was served and is not accounted for, or forget it where it is gone."""
        ...


class Eviction:
    """Looks again and again whether room has to be made, and makes it."""

    def __init__(
        self,
        *,
        bounds: Bounds,
        accounts: Accounts,
        shelves: Shelves,
        locks: Locks,
        usage: Usage,
        observer: EvictionObserver,
    ) -> None:
        """Join the parts."""
        self._bounds = bounds
        self._accounts = accounts
        self._shelves = shelves
        self._locks = locks
        self._usage = usage
        self._memory: list[Memory] = []
        self._observer = observer
        self._changed = asyncio.Event()
        self._measured = (0, 0)
        self._is_full = False
        self._rounds = 0
        self._turn = asyncio.Lock()  # the lock among workers does not tell the callers of one process apart
        self._admitting = 0
        self._unaccounted_manifests = set[tuple["Repository", "Digest"]]()
        self._unaccounted_blobs = set["Digest"]()

    def tell(self, memory: Memory) -> None:
        """Tell ``memory`` from now on what is no longer stored."""
        self._memory.append(memory)

    async def measure(self) -> None:
        """Look how much room there is; once before serving, and each second from then on by itself.

        Raises:
            StorageError: the cache folder cannot be measured.
        """
        await self._room_to_make()

    @asynccontextmanager
    async def held_off(self) -> AsyncIterator[None]:
        """Let nothing be evicted, by this worker or another, while the block runs."""
        async with self._turn, self._locks.hold(EVICTION_LOCK):
            yield

    def note_change(self) -> None:
        """Look soon: something was stored, or is on its way."""
        self._changed.set()

    def has_room_for(self, size_bytes: int | None) -> bool:
        """Say whether a blob of this size (None: of an unknown one) can be stored, others evicted for it or not."""
        stored_bytes, free_bytes = self._measured
        return not self._is_full and fits(
            self._bounds, size_bytes=size_bytes or 0, stored_bytes=stored_bytes, free_bytes=free_bytes
        )

    async def make_room(self) -> None:
        """Evict what has to go, now."""
        with suppress(StorageError):
            await self._make_room_on_disk()

    async def admit(self, digest: Digest, size_bytes: int) -> bool:
        """Account for a blob that is whole and verified, and make the room that it takes, before it gets its name.

        Returns:
            False where it had to go itself, so that it is not to be stored.
        """
        await self._accounts.add_blob(digest, size_bytes)
        if not await self._excess_bytes():
            return True
        self._admitting += 1
        try:
            await self._make_room_for_admitted()
        finally:
            self._admitting -= 1
        return not await self._accounts.touch([digest])

    async def settle(self, digest: Digest) -> None:
        """Take note that a blob has got its name; take it away again where it was evicted just before."""
        if await self._accounts.touch([digest]):
            await self._shelves.remove([digest])
        self.note_change()

    async def _make_room_for_admitted(self) -> None:
        rounds = self._rounds
        async with self._turn:
            if self._rounds != rounds:  # one that began meanwhile has made room for all that waited
                return
            self._rounds += 1
            with suppress(StorageError):
                async with self._locks.hold(EVICTION_LOCK):
                    await self._evict(EvictionReason.SIZE, await self._excess_bytes())

    async def check_writable(self) -> None:
        """Say by an error why nothing can be stored.

        Raises:
            StorageError: it is full and nothing may go, or it cannot be written to.
        """
        if self._is_full:
            raise StorageError("there is no room in the cache and nothing to evict: blobs pass through it unstored")
        await self._shelves.check_writable()

    async def run(self) -> None:
        """Keep the store within its bounds until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.write_usage()
                await self._make_room_on_disk()
            except StorageError as error:
                log.warning("cache.eviction_failed", error=str(error))

    async def write_usage(self) -> None:
        """Hand on what was served; what there is no account of is accounted for, or forgotten where it is gone."""
        await self._touch_used()
        if not self._unaccounted_manifests and not self._unaccounted_blobs:
            return
        async with self.held_off():
            manifests, self._unaccounted_manifests = self._unaccounted_manifests, set()
            blobs, self._unaccounted_blobs = self._unaccounted_blobs, set()
            for repository, digest in manifests:
                for memory in self._memory:
                    await memory.account(repository, digest)
            for digest in blobs:
                size_bytes = await self._shelves.size_of(digest)
                if size_bytes is not None:
                    await self._accounts.add_blob(digest, size_bytes)

    async def _touch_used(self) -> None:
        manifests, blobs = self._usage.take()
        digests = blobs | {digest for _, digest in manifests}
        unknown = set(await self._accounts.touch(digests)) if digests else set()
        self._unaccounted_manifests |= {(repository, digest) for repository, digest in manifests if digest in unknown}
        self._unaccounted_blobs |= blobs & unknown

    async def _make_room_on_disk(self) -> None:
        if await self._make_room() is EvictionReason.SPACE:
            await asyncio.sleep(_FREEING_SECONDS)

    async def _make_room(self) -> EvictionReason | None:
        if await self._room_to_make() is None:
            self._is_full = False
            return None
        async with self.held_off():
            found = await self._room_to_make()  # another worker may have made it meanwhile
            if found is None:
                return None
            reason, needed_bytes = found
            evicted_bytes = await self._evict(reason, needed_bytes)
        if evicted_bytes < needed_bytes and not self._is_full:
            self._is_full = True
            log.warning("cache.full", reason=reason.value, missing_bytes=needed_bytes - evicted_bytes)
        return reason

    async def _excess_bytes(self) -> int:
        return excess_bytes(self._bounds, (await self._accounts.totals()).size_bytes)

    async def _room_to_make(self) -> tuple[EvictionReason, int] | None:
        totals, space = await self._accounts.totals(), await self._shelves.space()
        self._measured = totals.size_bytes, space.free_bytes
        return room_to_make(
            self._bounds,
            stored_bytes=totals.size_bytes,
            free_bytes=space.free_bytes,
            expected_bytes=space.expected_bytes,
            missing_bytes=space.missing_bytes,
        )

    async def _evict(self, reason: EvictionReason, needed_bytes: int) -> int:
        """Remove this much, in small steps; return how much it was.

        Between the steps requests have as much time as a step took, unless a blob waits for room to get its name.
        """
        await self._remove(await self._accounts.doomed(_BATCH_OBJECTS))
        clock = asyncio.get_running_loop().time
        touched_at = began = clock()
        evicted_bytes = objects = 0
        while evicted_bytes < needed_bytes:
            removal = await self._accounts.evict(needed_bytes - evicted_bytes, limit=_BATCH_OBJECTS)
            if not removal.digests:
                break
            for memory in self._memory:
                await memory.forget(removal)
            await self._remove(removal.digests)
            self._observer.evicted(reason.value, len(removal.digests), removal.size_bytes)
            evicted_bytes += removal.size_bytes
            objects += len(removal.digests)
            if not self._admitting:
                await asyncio.sleep(clock() - began)
            if clock() - touched_at > _USAGE_SECONDS:
                await self._touch_used()
                touched_at = clock()
            began = clock()
        if objects:
            log.info("cache.evicted", reason=reason.value, objects=objects, size_bytes=evicted_bytes)
        return evicted_bytes

    async def _remove(self, digests: Sequence[Digest]) -> None:
        if digests:
            await self._shelves.remove(digests)
            await self._accounts.bury(digests)
