"""What is known of stored content, in the index and in memory, and what workers hold against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Repository, Tag
    from mirror.oci.requests import Page
    from mirror.policy import StoredTag

V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A repository is known to hold this content; ``media_type`` is the upstream's, for a manifest.

    ``is_private``: a credential was shown to get it, so that the upstream has to be asked from time to time.
    """

    descriptor: Descriptor
    is_manifest: bool
    is_private: bool = False


class Index(Protocol):
    """Facts about what is stored. One that is lost costs a question to an upstream."""

    async def find_tag(self, repository: Repository, tag: Tag) -> StoredTag | None:
        """Return what the tag pointed at when it was last confirmed."""
        ...

    async def put_tag(self, repository: Repository, tag: Tag, stored: StoredTag) -> None:
        """Remember what the upstream just said."""
        ...

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        """Forget a tag that the upstream no longer has."""
        ...

    async def find_held(self, repository: Repository, digest: Digest) -> Held | None:
        """Return how the repository is known to hold the content, if it is."""
        ...

    async def put_held(self, repository: Repository, held: Sequence[Held]) -> None:
        """Link content to a repository that an upstream has shown to hold it."""
        ...

    async def drop_held(self, repository: Repository, digest: Digest) -> None:
        """Forget that a repository holds the content."""
        ...

    async def find_confirmed(self, repository: Repository) -> float | None:
        """Return when the upstream last gave or confirmed private content of a repository (since the epoch)."""
        ...

    async def put_confirmed(self, repository: Repository, at: float) -> None:
        """Remember that it just has."""
        ...

    async def tags_of(self, repository: Repository) -> Sequence[str]:
        """Return the tags known of a repository, in lexical order."""
        ...

    async def repositories(self, page: Page) -> tuple[Sequence[Repository], bool]:
        """Return a page of what is cached, in lexical order, and whether there is more."""
        ...

    async def add_blob(self, digest: Digest, size_bytes: int) -> None:
        """Account for a blob that was stored just now."""
        ...

    async def stored_size(self, digest: Digest) -> int | None:
        """Return the size that content had when it was stored."""
        ...

    async def add_manifest(self, repository: Repository, manifest: Manifest) -> None:
        """Account for a stored manifest that this repository holds, and for what it needs."""
        ...

    async def add_holder(self, repository: Repository, digest: Digest) -> None:
        """Note that a repository holds a blob, whatever its manifests say."""
        ...


class Memory(Protocol[V]):
    """Hot values by key, bounded, each with an end of its own."""

    async def find(self, key: str) -> V | None:
        """Return the value, unless it has ended or was dropped."""
        ...

    def peek(self, key: str) -> V | None:
        """Return the same at once, where the values are this process's own."""
        ...

    async def put(self, key: str, value: V, *, ttl_seconds: float | None = None, weight: int = 1) -> None:
        """Keep a value for ``ttl_seconds`` (None: until it is dropped)."""
        ...

    async def drop(self, key: str) -> None:
        """Forget a value."""
        ...

    async def clear(self) -> None:
        """Forget everything."""
        ...


class Locks(Protocol):
    """Mutual exclusion among the worker processes of one cache."""

    def hold(self, key: str, *, longest_wait_seconds: float = 0.005) -> AbstractAsyncContextManager[None]:
        """Wait for the key and keep it while the block runs; dropped by the kernel when the process dies.

        Who waits looks again ever less often, ``longest_wait_seconds`` apart in the end.
        """
        ...


class Notes(Protocol):
    """Short texts by key that the worker processes of one cache leave for each other; one that is lost is no harm."""

    async def find_note(self, key: str) -> str | None:
        """Return what was noted last."""
        ...

    async def put_note(self, key: str, text: str) -> None:
        """Leave a note, in place of an earlier one."""
        ...
