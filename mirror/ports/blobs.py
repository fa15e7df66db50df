"""Bytes by digest: stored, and on their way into the store."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.oci.requests import Kind


Bytes: TypeAlias = bytes | memoryview


class Body(Protocol):
    """Bytes that can be sent from a file, all of them there already or still arriving; whoever gets one closes it."""

    @property
    def size_bytes(self) -> int | None:
        """The whole size; None where the upstream does not tell."""
        ...

    def fileno(self) -> int:
        """Return a descriptor to read from, below the offsets that ``readable_to`` has returned."""
        ...

    def readable_now(self) -> int:
        """Return the end of what can be read without waiting."""
        ...

    async def readable_to(self, offset: int) -> int:
        """Wait until there is something at ``offset``; return the end of what is readable, ``offset`` at the end.

        Raises:
            UpstreamError: the rest will not come, or must not be sent.
        """
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class StoredBlob(Protocol):
    """An open stored blob, all of it there; whoever gets one closes it."""

    @property
    def size_bytes(self) -> int:
        """The whole size."""
        ...

    @property
    def is_doubted(self) -> bool:
        """Whether its file was changed since it was stored: it has to be examined before all of it is sent."""
        ...

    def fileno(self) -> int:
        """Return a descriptor to read from."""
        ...

    def readable_now(self) -> int:
        """Return the size."""
        ...

    async def readable_to(self, offset: int) -> int:
        """Return the size."""
        ...

    def share(self) -> StoredBlob:
        """Return the same file, open once more."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a download comes from: enough to go on with it after a restart."""

    repository: Repository
    kind: Kind
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Underway:
    """A blob of which there is a part: being downloaded, or left by a process that was."""

    digest: Digest
    origin: Origin
    arrived_bytes: int


class Claim(Enum):
    """What somebody who wants to write a partial blob finds."""

    WRITER = auto()
    BUSY = auto()
    STORED = auto()
    DISCARDED = auto()


class Part(Protocol):
    """A stretch of a download that came before what belongs in front of it; whoever gets one closes or removes it."""

    @property
    def first(self) -> int:
        """Where in the blob it begins."""
        ...

    @property
    def end(self) -> int:
        """Where in the blob what is there ends."""
        ...

    async def append(self, content: Bytes) -> None:
        """Write behind what is there."""
        ...

    async def read(self, offset: int, limit_bytes: int) -> bytes:
        """Return bytes from ``offset`` in the blob on, at least one where there is one."""
        ...

    def close(self) -> None:
        """Let go of it; what is there stays for the next writer."""
        ...

    def remove(self) -> None:
        """Let go of it and take it away."""
        ...


class PartialBlob(Protocol):
    """The file that one download fills, shared by all worker processes that want the same blob."""

    def fileno(self) -> int:
        """Return a descriptor that stays readable when the file gets its name in the store."""
        ...

    def fileno_at(self, offset: int) -> int:
        """Return the descriptor that has the bytes at an offset."""
        ...

    def written_bytes(self) -> int:
        """Return how much is in the file, whoever wrote it."""
        ...

    @property
    def spilled_at(self) -> int | None:
        """Where it goes on in memory, for want of room; None while it is on the disk."""
        ...

    def spill(self) -> None:
        """Go on in memory after what is there: it will not be stored, and nobody else may wait for it."""
        ...

    def release(self, offset: int) -> None:
        """Give up what is in memory below an offset."""
        ...

    def is_verified(self) -> bool:
        """Say whether its writer has found the digest to match."""
        ...

    def claim(self) -> Claim:
        """Try to become its one writer; the claim ends with ``close`` or with the process."""
        ...

    async def read_written(self) -> None:
        """Hash what an earlier writer left, so that ``append`` can go on after it."""
        ...

    async def announce(self, origin: Origin) -> None:
        """Tell the other workers, and the next start, what this will be."""
        ...

    async def announced(self) -> Origin | None:
        """Return what its writer has announced."""
        ...

    async def append(self, content: Bytes) -> None:
        """Hash and write; bytes are visible to every follower when this returns."""
        ...

    async def open_part(self, first: int) -> Part:
        """Open the part that begins at ``first``, made when there is none."""
        ...

    async def open_parts(self) -> Sequence[Part]:
        """Open the parts that an earlier writer left."""
        ...

    def matches(self) -> bool:
        """Say whether all that was written hashes to the digest."""
        ...

    def mark_verified(self) -> None:
        """Tell the other workers that all of it is there and matches."""
        ...

    async def commit(self) -> None:
        """Make it durable and give it its name in the store; only for content that matches."""
        ...

    async def discard(self) -> None:
        """Remove the file; every follower finds it discarded."""
        ...

    def close(self) -> None:
        """Let go of the file and of the claim; what was written stays for the next writer."""
        ...


class BlobStore(Protocol):
    """Content-addressed bytes; a stored blob always matches its digest."""

    async def find(self, digest: Digest) -> StoredBlob | None:
        """Open a stored blob."""
        ...

    async def examine(self, digest: Digest, stored: StoredBlob) -> bool:
        """Hash an open blob; trust its file from now on if it is right, and take its name away if it is not."""
        ...

    async def read(self, digest: Digest, *, limit_bytes: int) -> bytes | None:
        """Return a stored blob whole; None when it is not there or longer than the limit."""
        ...

    async def put(self, digest: Digest, content: bytes) -> bool:
        """Store content whose digest the caller has verified; return whether it was not there before."""
        ...

    async def remove(self, digests: Sequence[Digest]) -> None:
        """Take the names of stored files away; who has one open reads on."""
        ...

    async def open_partial(self, digest: Digest) -> PartialBlob:
        """Open the download file of a digest, made when there is none."""
        ...

    def hold_in_memory(self, digest: Digest) -> PartialBlob:
        """Begin a download that nothing can be stored of; it gives back what its followers have read."""
        ...

    async def partials(self) -> Sequence[tuple[Digest, Origin]]:
        """List the downloads that an earlier process left unfinished; remove what cannot be gone on with."""
        ...


class Room(Protocol):
    """Whether there is room in the store."""

    def has_room_for(self, size_bytes: int | None) -> bool:
        """Say whether a blob of this size (None: of an unknown one) can be stored, others evicted for it or not."""
        ...

    async def make_room(self) -> None:
        """Evict what has to go, now: the disk has refused to take more."""
        ...

    async def admit(self, digest: Digest, size_bytes: int) -> bool:
        """Account for a blob that is whole and verified, and make the room that it takes, before it gets its name.

        Returns:
            False where it had to go itself, so that it is not to be stored.

        A process that dies in between leaves a download that the next one completes, and never a file that nobody
        counts.
        """
        ...

    async def settle(self, digest: Digest) -> None:
        """Take note that a blob has got its name; take it away again where it was evicted just before."""
        ...

    def note_change(self) -> None:
        """Take note that a blob is on its way."""
        ...
