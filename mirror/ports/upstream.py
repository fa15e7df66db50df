"""A registry, as its client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Reference, Repository
    from mirror.oci.requests import Page
    from mirror.policy import TagLifetime


class Sink(Protocol):
    """Memory that a transfer fills."""

    def room(self) -> memoryview:
        """Return where the next bytes belong; nothing while there is no room."""
        ...

    def filled(self, size_bytes: int) -> None:
        """Note that the beginning of the room was filled."""
        ...

    async def wait_for_room(self) -> None:
        """Wait until there is room."""
        ...


class BlobStream(Protocol):
    """The rest of a blob, arriving from an upstream."""

    @property
    def offset(self) -> int:
        """Where in the blob its first byte belongs; 0 when the upstream ignored the range that was asked for."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """The size of the whole blob, where the upstream tells."""
        ...

    async def receive(self, sink: Sink) -> None:
        """Put the bytes into the sink as they come, until the last.

        Raises:
            UpstreamUnreachable: the transfer broke or went silent.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamState:
    """How things stand with an upstream, as far as this process knows; no secret and no user's name is in it.

    ``is_up`` is None before it was asked anything. ``credential`` says where one was found and what became of it.
    """

    name: str
    is_up: bool | None
    credential: str
    is_refused: bool
    limit: int | None
    remaining: int | None
    wait_seconds: float
    is_offline: bool = False


class Upstream(Protocol):
    """One registry, as its client. Every method may raise NotFound, Denied or UpstreamError."""

    @property
    def name(self) -> str:
        """The name in the configuration: a label, a cache key."""
        ...

    @property
    def tag_lifetime(self) -> TagLifetime:
        """How long its tags are fresh and may be stale; longer while little is left of its rate limit."""
        ...

    @property
    def is_offline(self) -> bool:
        """Whether it is never asked: what is not stored is not to be had."""
        ...

    def is_at_reserve(self) -> bool:
        """Say whether what is left of its rate limit is for what is not cached."""
        ...

    def is_private(self, repository: Repository) -> bool:
        """Say whether a credential was shown for what this repository has given."""
        ...

    @property
    def parallel(self) -> int:
        """How many connections one large blob may use."""
        ...

    def is_struggling(self) -> bool:
        """Say whether it has lately failed to answer in time."""
        ...

    def note_wrong_content(self) -> None:
        """Take note that it sent something else than was asked for."""
        ...

    async def resolve(self, repository: Repository, reference: Reference) -> Descriptor | None:
        """Ask by HEAD what a reference is; None where this registry does not say enough in a HEAD."""
        ...

    async def fetch_manifest(self, repository: Repository, reference: Reference) -> Manifest:
        """Get a manifest, checked against the digest where that is the reference."""
        ...

    async def find_blob_size(self, repository: Repository, digest: Digest) -> int | None:
        """Confirm that the repository holds the blob; its size, where the upstream tells."""
        ...

    def open_blob(
        self, repository: Repository, digest: Digest, *, first: int = 0, last: int | None = None
    ) -> AbstractAsyncContextManager[BlobStream]:
        """Start a transfer at ``first``; ``last`` is inclusive."""
        ...

    async def list_tags(self, repository: Repository, page: Page) -> tuple[Sequence[str], bool]:
        """Return the tags of the upstream's page, and whether there is more."""
        ...

    async def list_referrers(self, repository: Repository, digest: Digest) -> bytes:
        """Return the index of manifests that point at a digest, as JSON."""
        ...

    async def search(self, query: str, limit: int | None) -> bytes:
        """Return the answer of the registry's search, as JSON."""
        ...

    async def state(self) -> UpstreamState:
        """Say how things stand with it."""
        ...
