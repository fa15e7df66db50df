"""How much is stored, what needs it and when it was used; the files that this is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Repository, Tag
    from mirror.oci.requests import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How much is stored."""

    size_bytes: int
    objects: Mapping[Kind, int]


@dataclass(slots=True)
class Removal:
    """What was taken out of the accounts: files to remove, and what was known about them."""

    digests: list[Digest] = field(default_factory=list)
    size_bytes: int = 0
    links: list[tuple[Repository, Digest]] = field(default_factory=list)
    tags: list[tuple[Repository, Tag]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """An image that a repository holds; ``pins`` are the references by which it is pinned, ``used_at`` since the epoch.

    ``size_bytes`` is what is stored of it, with what it shares with others.
    """

    digest: Digest
    tags: Sequence[str]
    pins: Sequence[str]
    size_bytes: int
    used_at: float


class Accounts(Protocol):
    """By what the store is kept within its bounds: sizes, last uses, what needs what."""

    async def add_blob(self, digest: Digest, size_bytes: int) -> None:
        """Account for a stored blob."""
        ...

    async def touch(self, digests: Iterable[Digest]) -> Sequence[Digest]:
        """Note that content was used; return what there is no account of."""
        ...

    async def totals(self) -> Totals:
        """Return how much is stored."""
        ...

    async def evict(self, size_bytes: int, *, limit: int) -> Removal:
        """Forget images and loose blobs, the least recently used first, until this much, or ``limit`` objects.

        Their files are to be removed then, and `bury` to be told; a process that dies before leaves them `doomed`.
        """
        ...

    async def doomed(self, limit: int) -> Sequence[Digest]:
        """Return what was forgotten and whose files may still be there."""
        ...

    async def bury(self, digests: Sequence[Digest]) -> None:
        """Note that these files are gone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is written down of a repository, as far as its content is stored, up to ``mark``.

    ``pins`` are tags or digests, as they were written, and what they named.
    """

    repository: Repository
    mark: str
    manifests: Mapping[Digest, str]
    blobs: Sequence[Digest]
    tags: Sequence[tuple[Tag, Digest]]
    pins: Sequence[tuple[str, Digest]]


class Records(Protocol):
    """What is written down of each repository, apart from index and accounts, which may be lost."""

    async def repositories(self) -> Sequence[Repository]:
        """List the repositories of which something is written down."""
        ...

    async def read(self, repository: Repository, mark: str | None) -> Record | None:
        """Return what is written down; None where that ends at ``mark``."""
        ...

    async def compact(self, repository: Repository) -> bool:
        """Leave out what is no longer stored, once in a while; False where nothing was left."""
        ...


class Bookkeeping(Protocol):
    """The accounts, for who holds them against what is there."""

    async def catch_up(self, repository: Repository) -> None:
        """Take what is written down of a repository into the index."""
        ...

    async def retire(self, repository: Repository) -> None:
        """Take a repository of which nothing is left out of the catalog."""
        ...

    async def find_mark(self, repository: Repository) -> str | None:
        """Return how far what is written down of a repository is accounted for."""
        ...

    async def lacking(self, repository: Repository, manifests: Sequence[Digest]) -> Sequence[Digest]:
        """Return the manifests that are not accounted for as the repository's."""
        ...

    async def restore_manifest(self, repository: Repository, manifest: Manifest, used: float) -> None:
        """Account for a stored manifest that was last used at ``used``, as far as one can tell."""
        ...

    async def restore(self, record: Record) -> None:
        """Account for the rest of what is written down of a repository."""
        ...

    async def on_shelf(self, shelf: str) -> Mapping[Digest, int]:
        """Return what is accounted for of one shelf, and its size."""
        ...

    async def restore_blobs(self, blobs: Sequence[tuple[Digest, int, float]]) -> None:
        """Account for stored files, each with its size and last use, as far as one can tell."""
        ...

    async def strike(self, digests: Sequence[Digest]) -> Removal:
        """Forget content whose file is gone."""
        ...

    async def doomed(self, limit: int) -> Sequence[Digest]:
        """Return what was forgotten and whose files may still be there."""
        ...

    async def bury(self, digests: Sequence[Digest]) -> None:
        """Note that these files are gone."""
        ...

    async def totals(self) -> Totals:
        """Return how much is stored."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of the store: its size, and when it was stored."""

    size_bytes: int
    stored_at: float


class Files(Protocol):
    """The files of the store, shelf by shelf: what begins with the same digits lies together."""

    async def shelves(self) -> Sequence[str]:
        """List the shelves in order, each by how its digests begin (``sha256:ab``)."""
        ...

    async def on_shelf(self, shelf: str) -> Mapping[Digest, StoredFile]:
        """Return the files of one shelf."""
        ...

    async def find(self, digest: Digest) -> StoredFile | None:
        """Look at one file."""
        ...

    async def is_on_its_way(self, digest: Digest) -> bool:
        """Say whether there is a download of it, which may get its name at any moment."""
        ...

    async def remove(self, digests: Sequence[Digest]) -> None:
        """Take the names of stored files away; who has one open reads on."""
        ...

    async def sweep(self) -> int:
        """Remove temporary files that nobody can be writing any more; return how many there were."""
        ...

    async def check(self, digest: Digest, pace: Callable[[int], Awaitable[None]]) -> bool | None:
        """Hash a file, past the page cache; remove it where it is not what it should be. None where there is none.

        ``pace`` is told of each stretch that was read, and says by when the next may be.

        Raises:
            StorageError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Room in the file system of the store, and what downloads in progress make of it.

    ``expected_bytes`` is what they will have when they are whole, ``missing_bytes`` what of that is not on the disk.
    """

    free_bytes: int
    expected_bytes: int
    missing_bytes: int


class Shelves(Protocol):
    """The files of the store, for who makes room on it."""

    async def space(self) -> Space:
        """Measure."""
        ...

    async def check_writable(self) -> None:
        """Raise StorageError when nothing can be stored."""
        ...

    async def size_of(self, digest: Digest) -> int | None:
        """Return the size of a stored file."""
        ...

    async def remove(self, digests: Sequence[Digest]) -> None:
        """Take the names of stored files away; who has one open reads on."""
        ...
