"""The index of a cache folder: facts and accounts, shared by the workers and kept over restarts.

    facts     where tags point, which repository holds what (`mirror.storage.facts`)
    ledger    sizes, last uses, what needs what (`mirror.storage.ledger`)

Nothing here is worth failing a pull for: an index that cannot be read knows nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import diskcache
import structlog

from mirror.errors import MirrorError
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag
from mirror.policy import StoredTag
from mirror.ports import Held, ListedImage, Record, Removal, Totals
from mirror.storage.databases import is_damage
from mirror.storage.facts import Facts
from mirror.storage.files import Layout
from mirror.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Reference
    from mirror.oci.requests import Page
    from mirror.ports import Clock

log = structlog.get_logger(__name__)
T = TypeVar("T")

_CATALOG_LIMIT = 1000


class DiskIndex:
    """The index of one cache folder: facts are looked up in one thread and changed in another, the accounts in a third.

    So a lookup, for which a client waits, never waits for a change: SQLite lets both go on at once.
    """

    def __init__(self, folder: Path, clock: Clock = time.time) -> None:
        """Open the databases in ``folder``, a cache folder's ``index``; ``clock`` tells when something was used.

        Raises:
            OSError: the folder cannot be used.
        """
        self._clock = clock
        # one thread for each: diskcache keeps a connection for each, and closes only that of the thread which asks
        self._looking_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lookup")
        self._looking = self._looking_pool.submit(Facts, Layout(folder.parent)).result()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="index")
        self._facts = self._pool.submit(Facts, Layout(folder.parent)).result()
        self._ledger_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._ledger = self._ledger_pool.submit(Ledger, folder / "ledger.db").result()

    def close(self) -> None:
        """Wait for running calls and close."""
        self._ledger_pool.submit(self._ledger.close).result()
        self._ledger_pool.shutdown()
        self._pool.submit(self._facts.close).result()
        self._pool.shutdown()
        self._looking_pool.submit(self._looking.close).result()
        self._looking_pool.shutdown()

    async def find_tag(self, repository: Repository, tag: Tag) -> StoredTag | None:
        """Return what the tag pointed at when it was last confirmed."""
        row = await self._look(self._looking.tag, repository, str(tag))
        return _read(row, lambda it: StoredTag(descriptor=_descriptor(it), confirmed_at=float(it["confirmed"])))

    async def put_tag(self, repository: Repository, tag: Tag, stored: StoredTag) -> None:
        """Remember what the upstream just said."""
        row = _row_of(stored.descriptor) | {"digest": str(stored.descriptor.digest), "confirmed": stored.confirmed_at}
        if await self._run(self._facts.put_tag, repository, str(tag), row):
            await self._account(self._ledger.point_tag, repository, tag, stored.descriptor.digest)

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        """Forget a tag that the upstream no longer has."""
        if await self._run(self._facts.tag, repository, str(tag)) is not None:
            await self._run(self._facts.change, repository, {f":{tag}": None})
        await self._account(self._ledger.drop_tag, repository, tag)

    async def find_held(self, repository: Repository, digest: Digest) -> Held | None:
        """Return how the repository is known to hold the content, if it is."""
        row = await self._look(self._looking.held, repository, digest)
        return _read(
            row,
            lambda it: Held(
                descriptor=_descriptor({**it, "digest": str(digest)}),
                is_manifest=bool(it["manifest"]),
                is_private=bool(it.get("private", True)),
            ),
        )

    async def put_held(self, repository: Repository, held: Sequence[Held]) -> None:
        """Link content to a repository that an upstream has shown to hold it."""
        rows = {
            f"@{one.descriptor.digest}": {
                **_row_of(one.descriptor),
                "manifest": one.is_manifest,
                "private": one.is_private,
            }
            for one in held
        }
        await self._run(self._facts.put_held, repository, rows)

    async def drop_held(self, repository: Repository, digest: Digest) -> None:
        """Forget that a repository holds the content."""
        await self._run(self._facts.change, repository, {f"@{digest}": None})

    async def find_confirmed(self, repository: Repository) -> float | None:
        """Return when the upstream last gave or confirmed private content of a repository (since the epoch)."""
        text = await self._look(self._looking.find, f"confirmed:{repository}")
        return None if text is None else _read(text, float)

    async def put_confirmed(self, repository: Repository, at: float) -> None:
        """Remember that it just has."""
        await self._run(self._facts.put, f"confirmed:{repository}", repr(at))

    async def find_note(self, key: str) -> str | None:
        """Return what a worker noted last."""
        return await self._look(self._looking.find, f"note:{key}")

    async def put_note(self, key: str, text: str) -> None:
        """Leave a note for the other workers."""
        await self._run(self._facts.put, f"note:{key}", text)

    async def tags_of(self, repository: Repository) -> Sequence[str]:
        """Return the tags known of a repository, in lexical order."""
        return await self._look(self._looking.tags, repository) or []

    async def repositories(self, page: Page) -> tuple[Sequence[Repository], bool]:
        """Return a page of what is cached, in lexical order, and whether there is more; no lookup waits for it."""
        return await self._run(self._page, page) or ((), False)

    def _page(self, page: Page) -> tuple[list[Repository], bool]:
        limit = min(_CATALOG_LIMIT if page.limit is None else page.limit, _CATALOG_LIMIT)
        after = itertools.dropwhile(lambda name: name <= (page.last or ""), self._facts.names())
        names = list(itertools.islice(after, limit + 1))
        return [Repository.parse(name) for name in names[:limit]], len(names) > limit > 0

    # ---- the accounts

    async def add_blob(self, digest: Digest, size_bytes: int) -> None:
        """Account for a blob that was stored just now."""
        await self._account(self._ledger.add_blob, digest, size_bytes, self._clock())

    async def stored_size(self, digest: Digest) -> int | None:
        """Return the size that content had when it was stored."""
        return await self._account(self._ledger.size_of, digest)

    async def add_manifest(self, repository: Repository, manifest: Manifest) -> None:
        """Account for a stored manifest that this repository holds, and for what it needs."""
        await self._account(self._ledger.add_manifest, repository, manifest, self._clock())

    async def add_holder(self, repository: Repository, digest: Digest) -> None:
        """Note that a repository holds a blob, whatever its manifests say."""
        await self._account(self._ledger.add_holder, repository, digest)

    async def touch(self, digests: Iterable[Digest]) -> Sequence[Digest]:
        """Note that content was used; return what there is no account of."""
        return await self._account(self._ledger.touch, digests, self._clock()) or ()

    async def totals(self) -> Totals:
        """Return how much is stored."""
        return await self._account(self._ledger.totals) or Totals(size_bytes=0, objects={})

    async def evict(self, size_bytes: int, *, limit: int) -> Removal:
        """Forget images and loose blobs, the least recently used first, until this much, or ``limit`` objects.

        Their files are to be removed then, and `bury` to be told; a process that dies before leaves them `doomed`.
        """
        removal = await self._account(lambda: self._ledger.evict(size_bytes, limit=limit)) or Removal()
        await self._run(self._forget, removal)
        return removal

    def _forget(self, removal: Removal) -> None:
        self._facts.forget(removal.links, [(repository, str(tag)) for repository, tag in removal.tags])

    async def pin(self, repository: Repository, reference: str, digest: Digest) -> None:
        """Keep what a reference names, and what that needs, whatever its last use."""
        await self._run(self._facts.change, repository, {f"!{reference}": {"digest": str(digest)}})
        await self._account(self._ledger.pin, repository, reference, digest)

    async def unpin(self, repository: Repository, reference: str) -> bool:
        """Take a pin away; return whether there was one."""
        await self._run(self._facts.change, repository, {f"!{reference}": None})
        return bool(await self._account(self._ledger.unpin, repository, reference))

    async def strike(self, digests: Sequence[Digest]) -> Removal:
        """Forget content whose file is gone."""
        removal = await self._account(self._ledger.strike, digests) or Removal()
        await self._run(self._forget, removal)
        await self._tell(removal)
        return removal

    async def on_shelf(self, shelf: str) -> Mapping[Digest, int]:
        """Return what is accounted for of one shelf, and its size."""
        return await self._account(self._ledger.on_shelf, shelf) or {}

    async def restore_blobs(self, blobs: Sequence[tuple[Digest, int, float]]) -> None:
        """Account for stored files, each with its size and last use, as far as one can tell."""
        await self._account(self._ledger.add_blobs, blobs)

    async def doomed(self, limit: int) -> Sequence[Digest]:
        """Return what was forgotten and whose files may still be there."""
        return await self._account(self._ledger.doomed, limit) or ()

    async def bury(self, digests: Sequence[Digest]) -> None:
        """Note that these files are gone."""
        await self._account(self._ledger.bury, digests)

    # ---- from what is written down

    async def catch_up(self, repository: Repository) -> None:
        """Take what is written down of a repository into the index."""
        await self._run(self._facts.list_again, repository)

    async def retire(self, repository: Repository) -> None:
        """Take a repository of which nothing is left out of the catalog."""
        await self._run(self._facts.retire, repository)

    async def find_mark(self, repository: Repository) -> str | None:
        """Return how far what is written down of a repository is accounted for."""
        return await self._account(self._ledger.find_mark, repository)

    async def lacking(self, repository: Repository, manifests: Sequence[Digest]) -> Sequence[Digest]:
        """Return the manifests that are not accounted for as the repository's."""
        return await self._account(self._ledger.lacking, repository, manifests) or ()

    async def restore_manifest(self, repository: Repository, manifest: Manifest, used: float) -> None:
        """Account for a stored manifest that was last used at ``used``, as far as one can tell."""
        await self._account(self._ledger.add_manifest, repository, manifest, used)

    async def restore(self, record: Record) -> None:
        """Account for the rest of what is written down of a repository."""
        await self._account(self._ledger.restore, record)

    # ---- what somebody asks for

    async def next_repository(self, after: str) -> Repository | None:
        """Return the first repository, in lexical order, whose name comes behind ``after``."""
        name = await self._account(lambda: self._ledger.holdings.next_repository(after))
        return None if name is None else Repository.parse(name)

    async def repository_size(self, repository: Repository) -> int:
        """Return the bytes that are stored of a repository."""
        return await self._account(lambda: self._ledger.holdings.repository_size(repository)) or 0

    async def images(
        self, repository: Repository, after: str, *, limit: int
    ) -> tuple[Sequence[ListedImage], str | None]:
        """Return the images among the next ``limit`` manifests of a repository, and where to go on; None at the end."""
        found = await self._account(lambda: self._ledger.holdings.images(repository, after, limit))
        return ((), None) if found is None else found

    async def find_image(self, repository: Repository, reference: Reference) -> Digest | None:
        """Return the stored manifest that a repository has by a tag or digest."""
        return await self._account(lambda: self._ledger.holdings.find(repository, reference))

    async def pins(self, repository: Repository) -> Sequence[tuple[str, Digest]]:
        """Return what is pinned of a repository: references as they were pinned, and where they point now."""
        return await self._account(lambda: self._ledger.holdings.pins(repository)) or ()

    async def remove(self, repository: Repository, reference: Reference | None, *, limit: int) -> Removal:
        """Forget an image of a repository, or without a reference the next ``limit`` objects of it, and its tags.

        What is done then is the same as after ``evict``.
        """
        removal = await self._account(lambda: self._ledger.remove(repository, reference, limit=limit)) or Removal()
        rows: dict[str, None] = {f"@{digest}": None for _, digest in removal.links}
        rows |= {f":{tag}": None for _, tag in removal.tags}
        if rows:  # in the link file too: other repositories may have it stored still
            await self._run(self._facts.change, repository, rows)
        await self._run(self._forget, removal)
        await self._tell(removal)
        return removal

    async def collect(self, since: float, *, unused_seconds: float, limit: int) -> tuple[Removal, float | None]:
        """Forget blobs that no manifest needs and nobody used for so long; say where to go on, None at the end.

        What is done then is the same as after ``evict``.
        """
        until = self._clock() - unused_seconds
        found = await self._account(lambda: self._ledger.collect(since, until, limit=limit))
        removal, after = (Removal(), None) if found is None else found
        await self._run(self._forget, removal)
        await self._tell(removal)
        return removal, after

    # ---- what other workers have to forget

    async def _tell(self, removal: Removal) -> None:
        if removal.links or removal.tags:
            await self._account(self._ledger.announce, removal)

    async def begin_removals(self) -> int:
        """Read what is taken out from now on; return where that is."""
        return await self._account(self._ledger.journal.begin) or 0

    async def removals(self, since: int) -> tuple[Removal | None, int]:
        """Return what was taken out next after a number, None where that is no longer known, and where to go on."""
        found = await self._account(lambda: self._ledger.journal.read(since))
        return (Removal(), since) if found is None else found

    async def note_removals(self, number: int) -> None:
        """Say that this process has forgotten everything up to a number."""
        await self._account(lambda: self._ledger.journal.note_read(number))

    async def end_removals(self) -> None:
        """Read no more."""
        await self._account(self._ledger.journal.end)

    async def are_removals_read(self) -> bool:
        """Say whether all processes that read have forgotten all that was taken out."""
        return await self._account(self._ledger.journal.is_read) is not False

    # ---- threads

    async def _run(self, work: Callable[..., T], *arguments: object) -> T | None:
        """Note something."""
        return await _in_thread(self._pool, self._facts, work, *arguments)

    async def _look(self, work: Callable[..., T], *arguments: object) -> T | None:
        """Look something up."""
        return await _in_thread(self._looking_pool, self._looking, work, *arguments)

    async def _account(self, work: Callable[..., T], *arguments: object) -> T | None:
        """Read or change the accounts."""
        return await _in_thread(self._ledger_pool, self._ledger, work, *arguments)


class _Database(Protocol):
    def open(self) -> None: ...

    def close(self) -> None: ...


async def _in_thread(pool: Executor, database: _Database, work: Callable[..., T], *arguments: object) -> T | None:
    """Run ``work`` in a pool, to its end even if nobody waits; trouble with the index is nobody else's trouble."""

    def run() -> T:
        try:
            return work(*arguments)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        database.close()
        database.open()
        return work(*arguments)

    try:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(pool, run))
    except (sqlite3.Error, diskcache.Timeout, MirrorError, OSError, ValueError) as error:
        log.warning("index.failed", error=f"{type(error).__name__}: {error}")
        return None


def _read(document: Any, build: Callable[[Any], T]) -> T | None:  # noqa: ANN401 - whatever the database held
    """Build a value from what was stored; None when somebody has changed it into something else."""
    try:
        return build(document)
    except (KeyError, TypeError, ValueError, MirrorError):
        return None


def _row_of(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "size": descriptor.size_bytes}


def _descriptor(document: Mapping[str, Any]) -> Descriptor:
    return Descriptor(
        media_type=str(document["mediaType"]),
        digest=Digest.parse(document["digest"]),
        size_bytes=int(document["size"]),
    )
