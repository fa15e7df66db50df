"""Opening the index's databases: one that is damaged is put aside, and diskcache's hold text only.

diskcache would pickle any other value, and a pickle in a cache folder runs as code for whoever can write there
(CVE-2025-69872).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING, Any, TypeVar

import diskcache
import structlog

from mirror.concurrency.folders import held
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

D = TypeVar("D")
log = structlog.get_logger(__name__)

_BUSY_SECONDS = 5.0


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


def open_facts(folder: Path) -> Any:  # noqa: ANN401 - diskcache has no types
    """Open a diskcache database, made when there is none.

    Raises:
        sqlite3.DatabaseError, ValueError, OSError: it cannot be used.
    """
    settings = {
        "cull_limit": 0,  # it must never evict by itself
        "eviction_policy": "none",
        "statistics": 0,
        "tag_index": 0,
        "sqlite_synchronous": 1,
        "sqlite_mmap_size": 0,  # a file that somebody cuts short under a mapping kills the process
        "timeout": _BUSY_SECONDS,
    }
    return diskcache.Cache(str(folder), disk=TextDisk, **settings)


def open_sqlite(path: str, prepare: Callable[[sqlite3.Connection], object]) -> sqlite3.Connection:
    """Open a database of our own, made when there is none; ``prepare`` makes its tables, or looks at them.

    Raises:
        sqlite3.DatabaseError: it is damaged, or ``prepare`` says so.
    """
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level="IMMEDIATE")
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        prepare(database)
    except BaseException:
        database.close()
        raise
    return database


def open_or_replace(path: Path, opening: Callable[[Path], D], *, damaged: int | None = None) -> D:
    """Open a database, a file or a folder; one that is damaged is put aside, since the link files know all of it.

    ``damaged`` is the inode of one that was found damaged in use; another worker may have replaced it already.
    """
    with held(path.parent):  # no other worker opens or replaces one
        if damaged is not None and path.exists() and path.stat().st_ino == damaged:
            _put_aside(path, "it was found damaged in use")
        try:
            return opening(path)
        except (sqlite3.DatabaseError, ValueError, OSError) as error:
            _put_aside(path, str(error))
            return opening(path)


def is_damage(error: Exception) -> bool:
    """Say whether a database will not work again by itself; it is not about one that is busy, full or read-only."""
    return type(error) is sqlite3.DatabaseError


def _put_aside(path: Path, error: str) -> None:
    """Rename a database, in place of one that was put aside earlier."""
    for earlier in path.parent.glob(f"{path.name}.damaged-*"):
        shutil.rmtree(earlier) if earlier.is_dir() else earlier.unlink()
    aside = path.with_name(f"{path.name}.damaged-{int(time.time())}-{os.getpid()}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    log.warning("index.replaced", error=error, kept_as=aside.name)
