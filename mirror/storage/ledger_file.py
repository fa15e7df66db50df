"""The ledger's file: its tables, the triggers that keep the counts, and how it is opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from mirror.storage.databases import open_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VERSION: Final = 1
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


def open_ledger(path: Path) -> sqlite3.Connection:
    """Open the database, made when there is none.

    Raises:
        sqlite3.DatabaseError: it is damaged, or of another version.
    """
    return open_sqlite(str(path), _prepare)


def _prepare(database: sqlite3.Connection) -> None:
    _create(database)
    _check(database)
    # how far each repository's link file is accounted for
    database.execute(
        "CREATE TABLE IF NOT EXISTS accounted (repository TEXT PRIMARY KEY, mark TEXT NOT NULL) WITHOUT ROWID"
    )


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
