"""Facts about what is stored, in diskcache (SQLite), shared by the workers and kept over restarts.

Everything is JSON text: diskcache would pickle any other value, and a pickle in a cache folder runs as code for whoever
can write there (CVE-2025-69872). Nothing here is worth failing a pull for: an index that cannot be read knows nothing.

    facts          tag:<repository>:<tag>          -> digest, mediaType, size, confirmed
                   held:<repository>@<digest>      -> mediaType, size, manifest, private
                   tags:<repository>               -> names
                   confirmed:<repository>          -> when its private content was last confirmed
                   total:<kind>, total:bytes       -> integers
                   note:<key>                      -> what workers tell each other
    repositories   <repository>                    -> 1; apart, so that its keys in order are the catalog
    ledger         sizes, last uses, what needs what (`mirror.storage.ledger`)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import diskcache
import structlog

from mirror.errors import MirrorError
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag
from mirror.policy import StoredTag
from mirror.ports import Held, Removal, Totals
from mirror.storage.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.oci.manifest import Manifest
    from mirror.oci.requests import Page
    from mirror.ports import Clock

log = structlog.get_logger(__name__)
T = TypeVar("T")

_BUSY_SECONDS = 5.0
_CATALOG_LIMIT = 1000


class _PickleRefused(MirrorError):
    """Somebody put a pickle into the index."""


class TextDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Stores text and integers in the database itself; refuses to write or read anything else."""

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, object]:  # noqa: ARG002, FBT001 - diskcache's signature
        """Return diskcache's columns for a value."""
        if isinstance(value, (str, int)):
            return 0, diskcache.core.MODE_RAW, None, value
        raise _refusal(value)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:  # noqa: ARG002, FBT001 - diskcache's signature
        """Return the value of diskcache's columns."""
        if mode == diskcache.core.MODE_RAW and filename is None and isinstance(value, (str, int)):
            return value
        raise _refusal(value)

    def get(self, key: object, raw: bool) -> object:  # noqa: FBT001 - diskcache's signature
        """Return the key of a row."""
        if raw and isinstance(key, str):
            return key
        raise _refusal(key)


def _refusal(value: object) -> _PickleRefused:
    return _PickleRefused(f"the index holds text only, not {type(value).__name__}")


def _open(folder: Path) -> Any:  # noqa: ANN401 - diskcache has no types
    settings = {
        "cull_limit": 0,  # it must never evict by itself
        "eviction_policy": "none",
        "statistics": 0,
        "tag_index": 0,
        "sqlite_synchronous": 1,
        "timeout": _BUSY_SECONDS,
    }
    return diskcache.Cache(str(folder), disk=TextDisk, **settings)


def _open_or_replace(folder: Path) -> Any:  # noqa: ANN401 - diskcache has no types
    """Open a database; one that is damaged is put aside, since all that it knew can be asked for again."""
    try:
        return _open(folder)
    except (sqlite3.DatabaseError, ValueError, OSError) as error:
        aside = folder.with_name(f"{folder.name}.damaged-{int(time.time())}-{os.getpid()}")
        log.warning("index.replaced", error=str(error), kept_as=aside.name)
        folder.rename(aside)
        return _open(folder)


class DiskIndex:
    """The index of one cache folder: what is looked up in one thread, the accounts in another."""

    def __init__(self, folder: Path, clock: Clock = time.time) -> None:
        """Open the databases in ``folder``; ``clock`` tells when something was used.

        Raises:
            OSError: the folder cannot be used.
        """
        self._clock = clock
        # one thread: diskcache keeps a connection for each, and closes only that of the thread which asks
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="index")
        self._facts = self._pool.submit(_open_or_replace, folder / "facts").result()
        self._repositories = self._pool.submit(_open_or_replace, folder / "repositories").result()
        self._ledger_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._ledger = self._ledger_pool.submit(Ledger, folder / "ledger.db").result()

    def close(self) -> None:
        """Wait for running calls and close."""
        self._ledger_pool.submit(self._ledger.close).result()
        self._ledger_pool.shutdown()
        self._pool.submit(self._facts.close).result()
        self._pool.submit(self._repositories.close).result()
        self._pool.shutdown()

    async def find_tag(self, repository: Repository, tag: Tag) -> StoredTag | None:
        """Return what the tag pointed at when it was last confirmed."""
        document = await self._document(f"tag:{repository}:{tag}")
        if document is None:
            return None
        return _read(document, lambda it: StoredTag(descriptor=_descriptor(it), confirmed_at=float(it["confirmed"])))

    async def put_tag(self, repository: Repository, tag: Tag, stored: StoredTag) -> None:
        """Remember what the upstream just said."""
        document = _document_of(stored.descriptor) | {"confirmed": stored.confirmed_at}
        has_moved = await self._run(self._put_tag, repository, tag, document)
        if has_moved:
            await self._account(self._ledger.point_tag, repository, tag, stored.descriptor.digest)

    def _put_tag(self, repository: Repository, tag: Tag, document: Mapping[str, Any]) -> bool:
        key = f"tag:{repository}:{tag}"
        with self._facts.transact(retry=True):
            before = _read(self._facts.get(key, "{}"), json.loads) or {}
            self._facts.set(key, json.dumps(document))
            self._change_tags(repository, lambda names: names | {str(tag)})
        self._repositories.set(str(repository), 1, retry=True)
        return bool(before.get("digest") != document["digest"])

    async def drop_tag(self, repository: Repository, tag: Tag) -> None:
        """Forget a tag that the upstream no longer has."""
        await self._run(self._drop_tag, repository, tag)
        await self._account(self._ledger.drop_tag, repository, tag)

    def _drop_tag(self, repository: Repository, tag: Tag) -> None:
        with self._facts.transact(retry=True):
            if self._facts.delete(f"tag:{repository}:{tag}"):
                self._change_tags(repository, lambda names: names - {str(tag)})

    def _change_tags(self, repository: Repository, change: Callable[[set[str]], set[str]]) -> None:
        before = set(json.loads(self._facts.get(f"tags:{repository}", "[]")))
        after = change(before)
        if after != before:
            self._facts.set(f"tags:{repository}", json.dumps(sorted(after)))

    async def find_held(self, repository: Repository, digest: Digest) -> Held | None:
        """Return how the repository is known to hold the content, if it is."""
        document = await self._document(f"held:{repository}@{digest}")
        if document is None:
            return None
        return _read(
            document | {"digest": str(digest)},
            lambda it: Held(
                descriptor=_descriptor(it), is_manifest=bool(it["manifest"]), is_private=bool(it.get("private", True))
            ),
        )

    async def put_held(self, repository: Repository, held: Sequence[Held]) -> None:
        """Link content to a repository that an upstream has shown to hold it."""
        rows = {
            f"held:{repository}@{one.descriptor.digest}": json.dumps(
                {
                    "mediaType": one.descriptor.media_type,
                    "size": one.descriptor.size_bytes,
                    "manifest": one.is_manifest,
                    "private": one.is_private,
                }
            )
            for one in held
        }
        await self._run(self._put_rows, rows, str(repository))

    def _put_rows(self, rows: Mapping[str, str], repository: str) -> None:
        with self._facts.transact(retry=True):
            for key, text in rows.items():
                self._facts.set(key, text)
        self._repositories.set(repository, 1, retry=True)

    async def drop_held(self, repository: Repository, digest: Digest) -> None:
        """Forget that a repository holds the content."""
        await self._run(self._delete, f"held:{repository}@{digest}")

    def _delete(self, key: str) -> None:
        self._facts.delete(key, retry=True)

    async def find_confirmed(self, repository: Repository) -> float | None:
        """Return when the upstream last gave or confirmed private content of a repository (since the epoch)."""
        text = await self._run(self._facts.get, f"confirmed:{repository}")
        return None if text is None else _read(text, float)

    async def put_confirmed(self, repository: Repository, at: float) -> None:
        """Remember that it just has."""
        await self._run(self._set, f"confirmed:{repository}", repr(at))

    async def find_note(self, key: str) -> str | None:
        """Return what a worker noted last."""
        text = await self._run(self._facts.get, f"note:{key}")
        return None if text is None else str(text)

    async def put_note(self, key: str, text: str) -> None:
        """Leave a note for the other workers."""
        await self._run(self._set, f"note:{key}", text)

    def _set(self, key: str, text: str) -> None:
        self._facts.set(key, text, retry=True)

    async def tags_of(self, repository: Repository) -> Sequence[str]:
        """Return the tags known of a repository, in lexical order."""
        text = await self._run(self._facts.get, f"tags:{repository}")
        names = _read(text or "[]", json.loads)
        return [str(name) for name in names or ()]

    async def repositories(self, page: Page) -> tuple[Sequence[Repository], bool]:
        """Return a page of what is cached, in lexical order, and whether there is more."""
        return await self._run(self._page, page) or ((), False)

    def _page(self, page: Page) -> tuple[list[Repository], bool]:
        limit = min(_CATALOG_LIMIT if page.limit is None else page.limit, _CATALOG_LIMIT)
        after = itertools.dropwhile(lambda name: name <= (page.last or ""), self._names())
        names = list(itertools.islice(after, limit + 1))
        return [Repository(*name.split("/", 1)) for name in names[:limit]], len(names) > limit > 0

    def _names(self) -> Iterator[str]:
        yield from self._repositories.iterkeys()

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
        with self._facts.transact(retry=True):
            for repository, digest in removal.links:
                self._facts.delete(f"held:{repository}@{digest}")
            for repository, tag in removal.tags:
                self._drop_tag(repository, tag)

    async def doomed(self, limit: int) -> Sequence[Digest]:
        """Return what was forgotten and whose files may still be there."""
        return await self._account(self._ledger.doomed, limit) or ()

    async def bury(self, digests: Sequence[Digest]) -> None:
        """Note that these files are gone."""
        await self._account(self._ledger.bury, digests)

    # ---- threads

    async def _document(self, key: str) -> dict[str, Any] | None:
        text = await self._run(self._facts.get, key)
        return None if text is None else _read(text, json.loads)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T | None:
        """Look something up, or note it."""
        return await _in_thread(self._pool, work, *arguments)

    async def _account(self, work: Callable[..., T], *arguments: object) -> T | None:
        """Read or change the accounts."""
        return await _in_thread(self._ledger_pool, work, *arguments)


async def _in_thread(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T | None:
    """Run ``work`` in a pool, to its end even if nobody waits; trouble with the index is nobody else's trouble."""
    try:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(pool, work, *arguments))
    except (sqlite3.Error, diskcache.Timeout, MirrorError, OSError, ValueError) as error:
        log.warning("index.failed", error=f"{type(error).__name__}: {error}")
        return None


def _read(document: Any, build: Callable[[Any], T]) -> T | None:  # noqa: ANN401 - whatever the database held
    """Build a value from what was stored; None when somebody has changed it into something else."""
    try:
        return build(document)
    except (KeyError, TypeError, ValueError, MirrorError):
        return None


def _document_of(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size_bytes,
    }


def _descriptor(document: Mapping[str, Any]) -> Descriptor:
    return Descriptor(
        media_type=str(document["mediaType"]),
        digest=Digest.parse(document["digest"]),
        size_bytes=int(document["size"]),
    )
