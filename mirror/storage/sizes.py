"""How much each repository holds, counted in the ledger beside those who write it, one repository at a time."""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

import structlog

from mirror.figures import Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)

_NEXT: Final = "SELECT min(repository) FROM holders WHERE repository > ?"
# what it holds by itself, and what its manifests need, each thing once
_SIZE: Final = """
SELECT coalesce(sum(size), 0) FROM objects WHERE digest IN (
    SELECT content FROM holders WHERE repository = :repository
    UNION SELECT needs.content FROM holders JOIN needs ON needs.manifest = holders.content
        WHERE holders.repository = :repository)
"""


class RepositorySizes:
    """Reads the ledger of one cache folder."""

    def __init__(self, ledger: Path) -> None:
        """Take the file; it is opened anew for each count."""
        self._ledger = ledger

    async def largest(self, limit: int) -> Sequence[Size]:
        """Return the repositories that hold most, the largest first; none where the ledger cannot be read."""
        try:
            return await asyncio.to_thread(self._largest, limit)
        except sqlite3.Error as error:
            log.warning("index.failed", error=f"{type(error).__name__}: {error}")
            return ()

    def _largest(self, limit: int) -> Sequence[Size]:
        with closing(sqlite3.connect(f"{self._ledger.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return heapq.nlargest(limit, self._sizes(database), key=lambda one: (one.size_bytes, one.repository))

    def _sizes(self, database: sqlite3.Connection) -> Iterator[Size]:
        name = ""
        while (name := database.execute(_NEXT, (name,)).fetchone()[0]) is not None:
            (size_bytes,) = database.execute(_SIZE, {"repository": name}).fetchone()
            if size_bytes:
                yield Size(repository=name, size_bytes=size_bytes)
