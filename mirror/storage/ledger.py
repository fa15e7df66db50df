"""What is stored, how large it is, when it was last used and what needs it: the accounts by which the cache is bounded.

An object is *needed* while a stored manifest names it. What nobody needs and nobody has pinned is a candidate for
eviction: whole images, by the manifest or index at their top, and blobs that no manifest names. Triggers keep the
counts, so that they are right whichever order things come in. What has been taken out of the accounts is *doomed* until
its file is gone, so that a process that is killed in between leaves nothing behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag
from mirror.oci.requests import Kind
from mirror.ports import Removal, Totals
from mirror.storage.databases import open_or_replace
from mirror.storage.holdings import LINKS_LOST, Holdings
from mirror.storage.journal import Journal
from mirror.storage.ledger_file import open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mirror.oci.manifest import Manifest
    from mirror.oci.reference import Reference
    from mirror.ports import Record

_OLDEST = "SELECT digest, used FROM objects WHERE needed = 0 AND pinned = 0 ORDER BY used LIMIT 1"
_ADD = """
INSERT INTO objects (digest, kind, size, used) VALUES (?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET used = max(used, excluded.used), size = excluded.size,
    kind = CASE kind WHEN 'manifest' THEN kind ELSE excluded.kind END
"""

_HOLD_LOOSE = """
INSERT OR IGNORE INTO holders SELECT :content, :repository WHERE NOT EXISTS (
    SELECT 1 FROM needs JOIN holders ON holders.content = needs.manifest
    WHERE needs.content = :content AND holders.repository = :repository)
"""


class Ledger:
    """The accounts of one cache folder, shared by the workers; used from the one thread that opened it."""

    def __init__(self, path: Path) -> None:
        """Open the database, made when there is none; one that is damaged or of another version is put aside."""
        self._path = path
        self._inode: int | None = None
        self.open()

    def open(self) -> None:
        """Open the database; one that was open before is taken for damaged."""
        self._database = open_or_replace(self._path, open_ledger, damaged=self._inode)
        self._inode = self._path.stat().st_ino
        self.holdings = Holdings(self._database, self._take_one)
        self.journal = Journal(self._database)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # ---- what is there

    def add_blob(self, digest: Digest, size_bytes: int, used: float) -> None:
        """Account for a stored blob."""
        with self._database:
            self._database.execute(_ADD, (str(digest), Kind.BLOB.value, size_bytes, used))

    def add_blobs(self, blobs: Iterable[tuple[Digest, int, float]]) -> None:
        """Account for stored blobs, each with its size and last use."""
        rows = ((str(digest), Kind.BLOB.value, size_bytes, used) for digest, size_bytes, used in blobs)
        with self._database:
            self._database.executemany(_ADD, rows)

    def add_manifest(self, repository: Repository, manifest: Manifest, used: float) -> None:
        """Account for a stored manifest that this repository holds, and for what it needs."""
        digest = str(manifest.digest)
        needed = [(digest, str(one.digest)) for one in (*manifest.blobs, *manifest.manifests)]
        with self._database:
            self._database.execute(_ADD, (digest, Kind.MANIFEST.value, len(manifest.body), used))
            self._database.executemany("INSERT OR IGNORE INTO needs VALUES (?, ?)", needed)
            self._database.execute("INSERT OR IGNORE INTO holders VALUES (?, ?)", (digest, str(repository)))

    def add_holder(self, repository: Repository, digest: Digest) -> None:
        """Note that a repository holds a blob, whatever its manifests say."""
        with self._database:
            self._database.execute("INSERT OR IGNORE INTO holders VALUES (?, ?)", (str(digest), str(repository)))

    def point_tag(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        """Note where a tag points; a pin of the tag goes with it."""
        row = (str(repository), str(tag))
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", (*row, str(digest)))
            pinned = self._database.execute("DELETE FROM pins WHERE repository = ? AND reference = ?", row)
            if pinned.rowcount:
                self._database.execute("INSERT INTO pins VALUES (?, ?, ?)", (*row, str(digest)))

    def drop_tag(self, repository: Repository, tag: Tag) -> None:
        """Forget a tag."""
        with self._database:
            self._database.execute("DELETE FROM tags WHERE repository = ? AND tag = ?", (str(repository), str(tag)))

    def touch(self, digests: Iterable[Digest], used: float) -> Sequence[Digest]:
        """Note a last use; return what there is no account of."""
        update = "UPDATE objects SET used = max(used, ?) WHERE digest = ?"
        with self._database:
            return [one for one in digests if not self._database.execute(update, (used, str(one))).rowcount]

    def size_of(self, digest: Digest) -> int | None:
        """Return the size that an object had when it was accounted for."""
        row = self._database.execute("SELECT size FROM objects WHERE digest = ?", (str(digest),)).fetchone()
        return None if row is None else int(row[0])

    def totals(self) -> Totals:
        """Return how much is stored."""
        rows = self._database.execute("SELECT kind, objects, bytes FROM totals").fetchall()
        return Totals(size_bytes=sum(row[2] for row in rows), objects={Kind(row[0]): row[1] for row in rows})

    # ---- what has to go

    def evict(self, size_bytes: int, *, limit: int) -> Removal:
        """Take out images and loose blobs, the least recently used first, until this much, or ``limit`` objects."""
        removal = Removal()
        with self._database:
            while removal.size_bytes < size_bytes and len(removal.digests) < limit:
                oldest = self._database.execute(_OLDEST).fetchone()
                if oldest is None:
                    break
                self._take_out(oldest[0], oldest[1], removal)
            if removal.digests:
                self.journal.write(removal)
        return removal

    def _take_out(self, root: str, used: float, removal: Removal) -> None:
        """Take out an object and all that only it needed, but for manifests which were used since by themselves."""
        waiting = [root]
        while waiting:
            contents = self._take_one(waiting.pop(), removal)
            waiting += (one for one in contents if self._goes_along(one, used))

    def _take_one(self, digest: str, removal: Removal) -> Sequence[str]:
        """Take out an object; return what it needed."""
        size = self._database.execute("SELECT size FROM objects WHERE digest = ?", (digest,)).fetchone()
        removal.digests.append(Digest.parse(digest))
        removal.size_bytes += size[0]
        contents = self._forget(digest, removal)
        self._database.execute("DELETE FROM objects WHERE digest = ?", (digest,))
        return contents

    def _goes_along(self, digest: str, used: float) -> bool:
        return bool(
            self._database.execute(
                "SELECT 1 FROM objects WHERE digest = ? AND needed = 0 AND pinned = 0 AND (kind = 'blob' OR used <= ?)",
                (digest, used),
            ).fetchone()
        )

    def _forget(self, digest: str, removal: Removal) -> Sequence[str]:
        """Take out what is known of an object; return what it needed."""
        for (name,) in self._database.execute("SELECT repository FROM holders WHERE content = ?", (digest,)).fetchall():
            repository = Repository.parse(name)
            lost = self._database.execute(LINKS_LOST, {"manifest": digest, "repository": name})
            removal.links += ((repository, Digest.parse(row[0])) for row in lost)
            removal.links.append((repository, Digest.parse(digest)))
        tags = self._database.execute("SELECT repository, tag FROM tags WHERE digest = ?", (digest,))
        removal.tags += ((Repository.parse(name), Tag(tag)) for name, tag in tags)
        needed = self._database.execute("SELECT content FROM needs WHERE manifest = ?", (digest,)).fetchall()
        self._database.execute("DELETE FROM tags WHERE digest = ?", (digest,))
        self._database.execute("DELETE FROM needs WHERE manifest = ?", (digest,))
        self._database.execute("DELETE FROM holders WHERE content = ?", (digest,))
        return [row[0] for row in needed]

    def doomed(self, limit: int) -> Sequence[Digest]:
        """Return what was taken out and whose file may still be there."""
        rows = self._database.execute("SELECT digest FROM doomed LIMIT ?", (limit,)).fetchall()
        return [Digest.parse(row[0]) for row in rows]

    def bury(self, digests: Iterable[Digest]) -> None:
        """Note that these files are gone."""
        with self._database:
            self._database.executemany("DELETE FROM doomed WHERE digest = ?", ((str(one),) for one in digests))

    # ---- what somebody asked for

    def announce(self, removal: Removal) -> None:
        """Let other processes forget what was taken out, once it is out of the facts too."""
        with self._database:
            self.journal.write(removal)

    def remove(self, repository: Repository, reference: Reference | None, *, limit: int) -> Removal:
        """Take an image out of a repository, or without a reference the next ``limit`` objects of it, and its tags."""
        with self._database:
            return self.holdings.remove(repository, reference, limit=limit)

    def collect(self, since: float, until: float, *, limit: int) -> tuple[Removal, float | None]:
        """Take out blobs that no manifest needs and that were last used in a time; say where to go on, None: done."""
        with self._database:
            return self.holdings.collect(since, until, limit=limit)

    def pin(self, repository: Repository, reference: str, digest: Digest) -> None:
        """Keep what a reference names, and what that needs, whatever its last use."""
        with self._database:
            self._database.execute(
                "DELETE FROM pins WHERE repository = ? AND reference = ?", (str(repository), reference)
            )
            self._database.execute("INSERT INTO pins VALUES (?, ?, ?)", (str(repository), reference, str(digest)))

    def unpin(self, repository: Repository, reference: str) -> bool:
        """Take a pin away; return whether there was one."""
        with self._database:
            found = self._database.execute(
                "DELETE FROM pins WHERE repository = ? AND reference = ?", (str(repository), reference)
            )
        return bool(found.rowcount)

    # ---- held against the files

    def on_shelf(self, shelf: str) -> Mapping[Digest, int]:
        """Return what is accounted for whose digest begins with ``shelf`` (``sha256:ab``), and its size."""
        rows = self._database.execute(
            "SELECT digest, size FROM objects WHERE digest >= ? AND digest < ?", (shelf, f"{shelf}g")
        )
        return {Digest.parse(digest): size for digest, size in rows}

    def strike(self, digests: Iterable[Digest]) -> Removal:
        """Take out what has lost its file; a blob that is needed stays linked to those who hold it."""
        removal = Removal()
        with self._database:
            for digest in digests:
                row = self._database.execute("SELECT kind, needed FROM objects WHERE digest = ?", (str(digest),))
                kind, needed = row.fetchone() or ("", 0)
                if kind == Kind.MANIFEST.value or not needed:
                    self._forget(str(digest), removal)
                self._database.execute("DELETE FROM objects WHERE digest = ?", (str(digest),))
                self._database.execute("DELETE FROM doomed WHERE digest = ?", (str(digest),))
        return removal

    def find_mark(self, repository: Repository) -> str | None:
        """Return how far the repository's link file is accounted for."""
        row = self._database.execute("SELECT mark FROM accounted WHERE repository = ?", (str(repository),)).fetchone()
        return None if row is None else str(row[0])

    def lacking(self, repository: Repository, manifests: Iterable[Digest]) -> Sequence[Digest]:
        """Return the manifests of which nothing is known, or not that the repository holds them."""
        known = """SELECT 1 FROM objects JOIN holders ON content = digest
            WHERE digest = ? AND repository = ? AND kind = 'manifest'"""
        name = str(repository)
        return [one for one in manifests if not self._database.execute(known, (str(one), name)).fetchone()]

    def restore(self, record: Record) -> None:
        """Note a repository's pins and tags, and what it holds by itself; its manifests are accounted for."""
        name = str(record.repository)
        with self._database:
            for digest in record.blobs:
                self._database.execute(_HOLD_LOOSE, {"content": str(digest), "repository": name})
            for reference, digest in record.pins:
                self._database.execute("INSERT OR REPLACE INTO pins VALUES (?, ?, ?)", (name, reference, str(digest)))
            for tag, digest in record.tags:
                self._database.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?)", (name, str(tag), str(digest)))
            self._database.execute("INSERT OR REPLACE INTO accounted VALUES (?, ?)", (name, record.mark))
