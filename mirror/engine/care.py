"""What an operator has done to the cache: images pinned and removed, and what nothing needs cleared away."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from mirror.errors import NotStored, Refused
from mirror.oci.digest import Digest
from mirror.oci.image_name import ImageName
from mirror.oci.reference import parse_reference
from mirror.ports import Removal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from mirror.oci.reference import Reference, Repository

_BATCH_OBJECTS = 64
_FORGETTING_SECONDS = 5.0  # workers look every second
_LOOKED_AFTER_SECONDS = 0.05


class Accounts(Protocol):
    """What is stored, and how it is taken out."""

    async def find_image(self, repository: Repository, reference: Reference) -> Digest | None:
        """Return the stored manifest that a repository has by a tag or digest."""
        ...

    async def pins(self, repository: Repository) -> Sequence[tuple[str, Digest]]:
        """Return what is pinned of a repository: references as they were pinned, and where they point now."""
        ...

    async def pin(self, repository: Repository, reference: str, digest: Digest) -> None:
        """Keep what a reference names."""
        ...

    async def unpin(self, repository: Repository, reference: str) -> bool:
        """Take a pin away; return whether there was one."""
        ...

    async def remove(self, repository: Repository, reference: Reference | None, *, limit: int) -> Removal:
        """Forget an image of a repository, or without a reference the next ``limit`` objects of it, and its tags."""
        ...

    async def retire(self, repository: Repository) -> None:
        """Take a repository of which nothing is left out of the catalog."""
        ...

    async def collect(self, since: float, *, unused_seconds: float, limit: int) -> tuple[Removal, float | None]:
        """Forget blobs that no manifest needs and nobody used for so long; say where to go on, None at the end."""
        ...

    async def doomed(self, limit: int) -> Sequence[Digest]:
        """Return what was forgotten and whose files may still be there."""
        ...

    async def bury(self, digests: Sequence[Digest]) -> None:
        """Note that these files are gone."""
        ...

    async def are_removals_read(self) -> bool:
        """Say whether all processes have forgotten what was taken out."""
        ...


class Files(Protocol):
    """The files of the store."""

    async def size_of(self, digest: Digest) -> int | None:
        """Return the size of a stored file."""
        ...

    async def remove(self, digests: Sequence[Digest]) -> None:
        """Take the names of stored files away."""
        ...

    async def remove_leftovers(self, *, unused_seconds: float) -> Mapping[str, Sequence[int]]:
        """Remove what nobody goes on with and nobody changed for so long; return the sizes by kind."""
        ...


class Memory(Protocol):
    """What is held in memory of content that may go."""

    async def forget(self, removal: Removal) -> None:
        """Forget what was removed."""
        ...


@dataclass(slots=True)
class Cleared:
    """Files that were removed: how many of each kind, and their bytes."""

    files: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0

    def add(self, kind: str, sizes: Sequence[int]) -> None:
        """Count files of one kind."""
        self.files[kind] = self.files.get(kind, 0) + len(sizes)
        self.size_bytes += sum(sizes)


class Care:
    """Carries out what is asked for, with a server around it or without."""

    def __init__(
        self,
        accounts: Accounts,
        files: Files,
        *,
        alone: Callable[[], AbstractAsyncContextManager[None]],
        memory: Memory | None = None,
    ) -> None:
        """Join the parts: ``alone`` keeps eviction out, ``memory`` is this process's."""
        self._accounts = accounts
        self._files = files
        self._alone = alone
        self._memory = memory

    async def pin(self, name: ImageName) -> Digest:
        """Keep an image, whatever its last use; a pinned tag is kept wherever it moves to.

        Raises:
            NotStored: it is not in the cache.
        """
        reference = name.reference_or_latest
        digest = await self._accounts.find_image(name.repository, reference)
        if digest is None:
            wanted = ImageName(name.repository, reference)
            raise NotStored(f"{wanted} is not in this cache; fetch it with: mirror warm {wanted}")
        await self._accounts.pin(name.repository, str(reference), digest)
        return digest

    async def unpin(self, name: ImageName) -> None:
        """Let an image go again when its time comes.

        Raises:
            NotStored: it is not pinned.
        """
        reference = name.reference_or_latest
        if not await self._accounts.unpin(name.repository, str(reference)):
            others = ", ".join(str(one) for one in await self._pinned(name.repository)) or "nothing"
            text = f"{ImageName(name.repository, reference)} is not pinned; of this repository, {others} is"
            raise NotStored(text)

    async def remove(self, name: ImageName, *, whole: bool) -> Removal:
        """Take an image out, or all of its repository; what anything else needs stays.

        Raises:
            NotStored: it is not in the cache.
            Refused: it is pinned.
            StorageError: a file could not be removed.
        """
        reference = None if whole else name.reference_or_latest
        await self._refuse_pinned(name.repository, reference)
        removal = Removal()
        async with self._alone():
            while await self._remove_some(name.repository, reference, removal) and whole:
                pass
            if whole:
                await self._accounts.retire(name.repository)
        if not (removal.digests or removal.links or removal.tags):
            raise NotStored(f"{ImageName(name.repository, reference)} is not in this cache; mirror ls says what is")
        await self._wait_until_forgotten()
        return removal

    async def collect(self, *, unused_seconds: float) -> Cleared:
        """Remove what nothing needs, if nobody used it for so long.

        Raises:
            StorageError: a file could not be removed.
        """
        cleared = Cleared()
        async with self._alone():
            while doomed := await self._accounts.doomed(_BATCH_OBJECTS):
                await self._remove_files("evicted", doomed, cleared)
            await self._collect_blobs(unused_seconds, cleared)
        leftovers = await self._files.remove_leftovers(unused_seconds=unused_seconds)
        for kind, sizes in leftovers.items():
            cleared.add(kind, sizes)
        return cleared

    async def _collect_blobs(self, unused_seconds: float, cleared: Cleared) -> None:
        since: float | None = 0.0
        while since is not None:
            removal, since = await self._accounts.collect(since, unused_seconds=unused_seconds, limit=_BATCH_OBJECTS)
            await self._forget(removal)
            await self._remove_files("blobs", removal.digests, cleared)

    async def _remove_files(self, kind: str, digests: Sequence[Digest], cleared: Cleared) -> None:
        sizes = [size for one in digests if (size := await self._files.size_of(one)) is not None]
        await self._files.remove(digests)
        await self._accounts.bury(digests)
        cleared.add(kind, sizes)

    async def _remove_some(self, repository: Repository, reference: Reference | None, total: Removal) -> bool:
        """Take out what is asked for, or a part of it; return whether there was something."""
        removal = await self._accounts.remove(repository, reference, limit=_BATCH_OBJECTS)
        await self._forget(removal)
        await self._files.remove(removal.digests)
        await self._accounts.bury(removal.digests)
        total.digests += removal.digests
        total.links += removal.links
        total.tags += removal.tags
        total.size_bytes += removal.size_bytes
        return bool(removal.links or removal.tags)

    async def _forget(self, removal: Removal) -> None:
        if self._memory is not None:
            await self._memory.forget(removal)

    async def _refuse_pinned(self, repository: Repository, reference: Reference | None) -> None:
        for pinned in await self._pinned(repository):
            if reference is None or pinned.reference == reference:
                raise Refused(f"{pinned} is pinned; take the pin away first: mirror unpin {pinned}")
        if isinstance(reference, Digest):
            for text, digest in await self._accounts.pins(repository):
                if digest == reference:
                    raise Refused(f"{repository}:{text} is pinned and has this digest; unpin it first")

    async def _pinned(self, repository: Repository) -> Sequence[ImageName]:
        return [ImageName(repository, parse_reference(text)) for text, _ in await self._accounts.pins(repository)]

    async def _wait_until_forgotten(self) -> None:
        """Return when no worker answers from its memory any more, or has hung for so long that it is not waited for."""
        try:
            async with asyncio.timeout(_FORGETTING_SECONDS):
                while not await self._accounts.are_removals_read():  # noqa: ASYNC110 - others set no event
                    await asyncio.sleep(_LOOKED_AFTER_SECONDS)
        except TimeoutError:
            return
