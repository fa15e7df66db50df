"""What the engine needs from the world: bytes, facts, registries, time and somebody who counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest
    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Reference, Repository, Tag
    from mirror.oci.requests import Kind, Page
    from mirror.policy import StoredTag, TagLifetime

V = TypeVar("V")
Bytes: TypeAlias = bytes | memoryview


class Clock(Protocol):
    """Seconds since the epoch; tests move it."""

    def __call__(self) -> float:
        """Return the time now."""
        ...


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


class DownloadObserver(Protocol):
    """Counts what becomes of downloads."""

    def fill_started(self) -> None:
        """One more in progress."""
        ...

    def fill_ended(self) -> None:
        """One fewer in progress."""
        ...

    def fill_unstored(self) -> None:
        """There was no room for one: it goes to its clients, and is not stored."""
        ...

    def fill_resumed(self, upstream: str) -> None:
        """A broken transfer went on where it stopped."""
        ...

    def digest_mismatched(self, upstream: str) -> None:
        """An upstream sent bytes that are not what was asked for."""
        ...


class DamageObserver(Protocol):
    """Counts what was found damaged in the store."""

    def blob_damaged(self) -> None:
        """A stored blob was not what it should be, and was removed."""
        ...


class UpstreamObserver(Protocol):
    """Counts what is asked of upstreams."""

    def upstream_answered(self, upstream: str, kind: Kind, method: str, code: str, seconds: float) -> None:
        """One request was answered, or failed (``code`` is then ``error``)."""
        ...

    def upstream_sent(self, upstream: str, kind: Kind, size_bytes: int) -> None:
        """Body bytes arrived."""
        ...

    def upstream_up(self, upstream: str, *, is_up: bool) -> None:
        """It is known whether the upstream answers."""
        ...

    def auth_failed(self, upstream: str) -> None:
        """A stored credential was refused."""
        ...

    def limit_seen(self, upstream: str, limit: int | None, remaining: int | None) -> None:
        """The upstream told its rate limit."""
        ...


class EvictionObserver(Protocol):
    """Counts what had to go."""

    def evicted(self, reason: str, objects: int, size_bytes: int) -> None:
        """So many objects of this size were removed."""
        ...
