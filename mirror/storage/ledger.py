"""What is stored, how large it is, when it was last used and what needs it: the accounts by which the cache is bounded.

An object is *needed* while a stored manifest names it. What nobody needs and nobody has pinned is a candidate for
eviction: whole images, by the manifest or index at their top, and blobs that no manifest names. Triggers keep the
counts, so that they are right whichever order things come in. What has been taken out of the accounts is *doomed* until
its file is gone, so that a process that is killed in between leaves nothing behind.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag
from mirror.oci.requests import Kind
from mirror.ports import Removal, Totals
from mirror.storage.databases import open_or_replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from mirror.oci.manifest import Manifest

_VERSION: Final = 1
_BUSY_SECONDS = 5.0
_SCHEMA: Final = """
CREATE TABLE objects (
    digest TEXT PRIMARY KEY, kind TEXT NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL,
    needed INTEGER NOT NULL DEFAULT 0, pinned INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX candidates ON objects (used) WHERE needed = 0 AND pinned = 0;
CREATE TABLE needs (manifest TEXT, content TEXT, PRIMARY KEY (manifest, content)) WITHOUT ROWID;
CREATE INDEX needs_by_content ON needs (content);
CREATE TABLE holders (content TEXT, repository TEXT, PRIMARY KEY (content, repository)) WITHOUT ROWID;
CREATE INDEX holders_by_repository ON holders (repository);
CREATE TABLE tags (repository TEXT, tag TEXT, digest TEXT NOT NULL, PRIMARY KEY (repository, tag)) WITHOUT ROWID;
CREATE INDEX tags_by_digest ON tags (digest);
CREATE TABLE pins (repository TEXT, reference TEXT, digest TEXT NOT NULL, PRIMARY KEY (repository, reference))
    WITHOUT ROWID;
CREATE INDEX pins_by_digest ON pins (digest);
CREATE TABLE doomed (digest TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE totals (kind TEXT PRIMARY KEY, objects INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO totals VALUES ('blob', 0, 0), ('manifest', 0, 0);

CREATE TRIGGER object_added AFTER INSERT ON objects BEGIN
    UPDATE totals SET objects = objects + 1, bytes = bytes + NEW.size WHERE kind = NEW.kind;
    UPDATE objects SET needed = (SELECT COUNT(*) FROM needs WHERE content = NEW.digest),
        pinned = EXISTS (SELECT 1 FROM pins WHERE digest = NEW.digest) WHERE digest = NEW.digest;
    DELETE FROM doomed WHERE digest = NEW.digest;
END;
CREATE TRIGGER object_changed AFTER UPDATE OF kind, size ON objects BEGIN
    UPDATE totals SET objects = objects - 1, bytes = bytes - OLD.size WHERE kind = OLD.kind;
    UPDATE totals SET objects = objects + 1, bytes = bytes + NEW.size WHERE kind = NEW.kind;
END;
CREATE TRIGGER object_removed AFTER DELETE ON objects BEGIN
    UPDATE totals SET objects = objects - 1, bytes = bytes - OLD.size WHERE kind = OLD.kind;
    INSERT OR IGNORE INTO doomed VALUES (OLD.digest);
END;
CREATE TRIGGER need_added AFTER INSERT ON needs BEGIN
    UPDATE objects SET needed = needed + 1 WHERE digest = NEW.content;
END;
CREATE TRIGGER need_removed AFTER DELETE ON needs BEGIN
    UPDATE objects SET needed = needed - 1 WHERE digest = OLD.content;
END;
CREATE TRIGGER pin_added AFTER INSERT ON pins BEGIN
    UPDATE objects SET pinned = 1 WHERE digest = NEW.digest;
END;
CREATE TRIGGER pin_removed AFTER DELETE ON pins BEGIN
    UPDATE objects SET pinned = EXISTS (SELECT 1 FROM pins WHERE digest = OLD.digest) WHERE digest = OLD.digest;
END;
"""
_OLDEST = "SELECT digest, used FROM objects WHERE needed = 0 AND pinned = 0 ORDER BY used LIMIT 1"
_ADD = """
INSERT INTO objects (digest, kind, size, used) VALUES (?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET used = max(used, excluded.used), size = excluded.size,
    kind = CASE kind WHEN 'manifest' THEN kind ELSE excluded.kind END
"""
# of what the manifest names, what this repository holds through no other manifest of its own and by itself
_LINKS_LOST = """
SELECT content FROM needs WHERE manifest = :manifest
    AND NOT EXISTS (SELECT 1 FROM holders WHERE content = needs.content AND repository = :repository)
    AND NOT EXISTS (SELECT 1 FROM needs AS other JOIN holders ON holders.content = other.manifest
        WHERE other.content = needs.content AND other.manifest != :manifest AND holders.repository = :repository)
"""


def _repository(text: str) -> Repository:
    return Repository(*text.split("/", 1))


class Ledger:
    """The accounts of one cache folder, shared by the workers; used from the one thread that opened it."""

    def __init__(self, path: Path) -> None:
        """Open the database, made when there is none; one that is damaged or of another version is put aside."""
        self._path = path
        self._inode: int | None = None
        self.open()

    def open(self) -> None:
        """Open the database; one that was open before is taken for damaged."""
        self._database = open_or_replace(self._path, _open, damaged=self._inode)
        self._inode = self._path.stat().st_ino

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # ---- what is there

    def add_blob(self, digest: Digest, size_bytes: int, used: float) -> None:
        """Account for a stored blob."""
        with self._database:
            self._database.execute(_ADD, (str(digest), Kind.BLOB.value, size_bytes, used))

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
        return removal

    def _take_out(self, root: str, used: float, removal: Removal) -> None:
        """Take out an object and all that only it needed, but for manifests which were used since by themselves."""
        waiting = [root]
        while waiting:
            digest = waiting.pop()
            size = self._database.execute("SELECT size FROM objects WHERE digest = ?", (digest,)).fetchone()
            removal.digests.append(Digest.parse(digest))
            removal.size_bytes += size[0]
            contents = self._forget(digest, removal)
            self._database.execute("DELETE FROM objects WHERE digest = ?", (digest,))
            waiting += (one for one in contents if self._goes_along(one, used))

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
            repository = _repository(name)
            lost = self._database.execute(_LINKS_LOST, {"manifest": digest, "repository": name})
            removal.links += ((repository, Digest.parse(row[0])) for row in lost)
            removal.links.append((repository, Digest.parse(digest)))
        tags = self._database.execute("SELECT repository, tag FROM tags WHERE digest = ?", (digest,))
        removal.tags += ((_repository(name), Tag(tag)) for name, tag in tags)
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

    # ---- pins

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


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level="IMMEDIATE")
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        _create(database)
        _check(database)
    except BaseException:
        database.close()
        raise
    return database


def _create(database: sqlite3.Connection) -> None:
    """Make the tables where there are none; another worker may be doing the same."""
    if database.execute("PRAGMA user_version").fetchone()[0]:
        return
    with closing(database.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        if cursor.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _statements(_SCHEMA):
                cursor.execute(statement)
            cursor.execute(f"PRAGMA user_version = {_VERSION}")
        cursor.execute("COMMIT")


def _check(database: sqlite3.Connection) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION:
        raise sqlite3.DatabaseError(f"the ledger is of version {version}, not {_VERSION}")
    database.execute("SELECT * FROM totals").fetchall()


def _statements(script: str) -> Iterator[str]:
    """Split a script; ``executescript`` would end the transaction first."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
