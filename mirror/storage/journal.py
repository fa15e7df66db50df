"""What was taken out lately, for the workers that hold it in memory: each reads on from where it has got to.

Used by the ledger, in its thread. Who reads says how far it has got, so that whoever took something out can wait until
all have forgotten it.
"""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING, Final

from mirror.concurrency.processes import is_alive
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag
from mirror.ports import Removal

if TYPE_CHECKING:
    import sqlite3

_KEPT: Final = 2000
_READ_AT_ONCE: Final = 4
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS removals (number INTEGER PRIMARY KEY, links TEXT NOT NULL, tags TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS readers (name INTEGER PRIMARY KEY, process INTEGER NOT NULL, number INTEGER NOT NULL)",
)


class Journal:
    """Numbered removals, the last two thousand of them."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Work on the ledger's own connection."""
        self._database = database
        self._name = secrets.randbits(62)  # a process may run a server that ends beside the one that takes its place
        for statement in _TABLES:
            database.execute(statement)

    def write(self, removal: Removal) -> None:
        """Let the others know what was taken out; within the caller's transaction."""
        links = json.dumps([[str(repository), str(digest)] for repository, digest in removal.links])
        tags = json.dumps([[str(repository), str(tag)] for repository, tag in removal.tags])
        number = self._last() + 1
        self._database.execute("INSERT INTO removals VALUES (?, ?, ?)", (number, links, tags))
        self._database.execute("DELETE FROM removals WHERE number <= ?", (number - _KEPT,))

    def begin(self) -> int:
        """Read from now on, as this process; return where that is."""
        number = self._last()
        self.note_read(number)
        return number

    def read(self, since: int) -> tuple[Removal | None, int]:
        """Return what was taken out next after a number, None where that is no longer known, and where to go on."""
        last = self._last()
        if last == since:
            return Removal(), since
        following = "SELECT number, links, tags FROM removals WHERE number > ? ORDER BY number LIMIT ?"
        rows = self._database.execute(following, (since, _READ_AT_ONCE)).fetchall()
        if not rows or rows[0][0] != since + 1:  # too many for the journal, or another one has taken its place
            return None, last
        removal = Removal()
        for _, links, tags in rows:
            removal.links += ((Repository.parse(name), Digest.parse(digest)) for name, digest in json.loads(links))
            removal.tags += ((Repository.parse(name), Tag(tag)) for name, tag in json.loads(tags))
        return removal, rows[-1][0]

    def note_read(self, number: int) -> None:
        """Say that this process has forgotten everything up to a number."""
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO readers VALUES (?, ?, ?)", (self._name, os.getpid(), number))

    def end(self) -> None:
        """Read no more, as this process."""
        with self._database:
            self._database.execute("DELETE FROM readers WHERE name = ?", (self._name,))

    def is_read(self) -> bool:
        """Say whether all processes that read have forgotten all that was taken out."""
        behind = self._database.execute("SELECT process FROM readers WHERE number < ?", (self._last(),)).fetchall()
        # one that was killed could not say that it reads no more
        return not any(is_alive(process) for (process,) in behind)

    def _last(self) -> int:
        (number,) = self._database.execute("SELECT coalesce(max(number), 0) FROM removals").fetchone()
        return int(number)
