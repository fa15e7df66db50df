"""The figures of all workers over the mirror's whole life: a small SQLite file of its own, apart from the index.

The index may be lost and is made anew from what is stored; nothing can tell again what was served. Each worker adds
what it has counted since its last second, in one transaction. What grows with time or with clients' wishes is bounded.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from mirror.concurrency.processes import is_alive
from mirror.figures import (
    Counted,
    History,
    Problem,
    Pulls,
    Span,
    Traffic,
    WorkerReport,
    read_report,
)
from mirror.storage.databases import open_or_replace, open_sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = structlog.get_logger(__name__)
T = TypeVar("T")

_VERSION: Final = 1
_MINUTE, _HOUR, _DAY, _LIFE = 60, 3600, 86400, 0
_KEPT: Final = {_MINUTE: 6 * 3600, _HOUR: 14 * 86400, _DAY: 400 * 86400}
_SHOWN_MINUTES_SECONDS: Final = 3 * 3600
_SHOWN_HOURS_SECONDS: Final = 7 * 86400
_MOST_REPOSITORIES: Final = 2000
_KEPT_REPOSITORIES: Final = 1500
_KEPT_PROBLEMS: Final = 50
_SHOWN_REPOSITORIES: Final = 10
_SHOWN_PROBLEMS: Final = 20
_REPORTS_KEPT_SECONDS: Final = 120.0
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS life (began REAL NOT NULL);
CREATE TABLE IF NOT EXISTS spans (
    seconds INTEGER, start INTEGER,
    requests INTEGER NOT NULL, hits INTEGER NOT NULL, failures INTEGER NOT NULL,
    sent_bytes INTEGER NOT NULL, hit_bytes INTEGER NOT NULL, fetched_bytes INTEGER NOT NULL,
    PRIMARY KEY (seconds, start)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pulls (
    repository TEXT PRIMARY KEY, pulls INTEGER NOT NULL, sent INTEGER NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS problems (
    event TEXT, facts TEXT, level TEXT NOT NULL, times INTEGER NOT NULL, last REAL NOT NULL, PRIMARY KEY (event, facts)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS workers (worker INTEGER PRIMARY KEY, at REAL NOT NULL, report TEXT NOT NULL);
PRAGMA user_version = 1;
COMMIT;
"""
_ADD_SPAN: Final = """
INSERT INTO spans VALUES (:seconds, :start, :requests, :hits, :failures, :sent_bytes, :hit_bytes, :fetched_bytes)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, hits = hits + excluded.hits,
    failures = failures + excluded.failures, sent_bytes = sent_bytes + excluded.sent_bytes,
    hit_bytes = hit_bytes + excluded.hit_bytes, fetched_bytes = fetched_bytes + excluded.fetched_bytes
"""
_SPANS: Final = """
SELECT start, requests, hits, failures, sent_bytes, hit_bytes, fetched_bytes FROM spans
WHERE seconds = ? AND start >= ? ORDER BY start
"""
_ADD_PULLS: Final = (
    "INSERT INTO pulls VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
    "SET pulls = pulls + excluded.pulls, sent = sent + excluded.sent, used = excluded.used"
)
_ADD_PROBLEM: Final = (
    "INSERT INTO problems VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
    "SET level = excluded.level, times = times + excluded.times, last = max(last, excluded.last)"
)
_DROP_PULLS: Final = """
DELETE FROM pulls WHERE repository IN (
    SELECT repository FROM pulls ORDER BY used DESC, pulls DESC LIMIT -1 OFFSET ?)
"""
_DROP_PROBLEMS: Final = """
DELETE FROM problems WHERE (event, facts) IN (SELECT event, facts FROM problems ORDER BY last DESC LIMIT -1 OFFSET ?)
"""


def start_of_day(now: float) -> int:
    """Return when the day began, where the mirror is."""
    local = time.localtime(now)
    return int(time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1)))


class FiguresFile:
    """The file, used in a thread of its own; trouble with it is logged, and is nobody else's trouble."""

    def __init__(self, path: Path, now: float) -> None:
        """Open it, made when there is none; one that is damaged is put aside."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="figures")
        self._database = self._pool.submit(_open_or_do_without, path, now).result()
        self._pruned_at = 0.0

    def close(self) -> None:
        """Wait for running calls and close."""
        self._pool.submit(self._database.close).result()
        self._pool.shutdown()

    async def write(self, counted: Counted, report: WorkerReport) -> bool:
        """Add what a worker has counted, and replace what it said of itself; return whether that went well."""
        return await self._run(self._write, counted, report) is not None

    def _write(self, counted: Counted, report: WorkerReport) -> bool:
        now = report.at
        with self._database:
            if counted.traffic != Traffic():
                self._add_traffic(counted.traffic, now)
            rows = [(one.repository, one.pulls, one.sent_bytes, now) for one in counted.pulls.values()]
            self._database.executemany(_ADD_PULLS, rows)
            problems = [(one.event, one.facts, one.level, one.times, one.last_at) for one in counted.problems.values()]
            self._database.executemany(_ADD_PROBLEM, problems)
            told = (report.worker, now, json.dumps(asdict(report)))
            self._database.execute("INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", told)
            if not 0 <= now - self._pruned_at < _MINUTE:
                self._prune(now)
        return True

    def _add_traffic(self, traffic: Traffic, now: float) -> None:
        starts = {_MINUTE: int(now) // _MINUTE * _MINUTE, _HOUR: int(now) // _HOUR * _HOUR, _DAY: start_of_day(now)}
        rows = [{"seconds": of, "start": start, **asdict(traffic)} for of, start in (*starts.items(), (_LIFE, 0))]
        self._database.executemany(_ADD_SPAN, rows)

    def _prune(self, now: float) -> None:
        """Let go what is too old, or too much."""
        for seconds, kept in _KEPT.items():
            self._database.execute("DELETE FROM spans WHERE seconds = ? AND start < ?", (seconds, now - kept))
        (number,) = self._database.execute("SELECT COUNT(*) FROM pulls").fetchone()
        if number > _MOST_REPOSITORIES:
            self._database.execute(_DROP_PULLS, (_KEPT_REPOSITORIES,))
        self._database.execute(_DROP_PROBLEMS, (_KEPT_PROBLEMS,))
        self._database.execute("DELETE FROM workers WHERE at < ?", (now - _REPORTS_KEPT_SECONDS,))
        self._pruned_at = now

    async def forget_worker(self, worker: int) -> None:
        """Take a worker's report away, which ends."""
        await self._run(self._forget_worker, worker)

    def _forget_worker(self, worker: int) -> None:
        with self._database:
            self._database.execute("DELETE FROM workers WHERE worker = ?", (worker,))

    async def read(self, now: float) -> History:
        """Return the figures of all workers; without any where they cannot be read."""
        return await self._run(self._read, now) or History(since=now, life=Traffic(), today=Traffic())

    def _read(self, now: float) -> History:
        today = self._spans(_DAY, start_of_day(now))
        life = self._spans(_LIFE, 0)
        (since,) = self._database.execute("SELECT min(began) FROM life").fetchone()
        return History(
            since=since,
            life=life[0].traffic if life else Traffic(),
            today=today[-1].traffic if today else Traffic(),
            minutes=self._spans(_MINUTE, now - _SHOWN_MINUTES_SECONDS),
            hours=self._spans(_HOUR, now - _SHOWN_HOURS_SECONDS),
            most_pulled=self._most_pulled(),
            problems=self._problems(),
            reports=self._reports(),
        )

    def _spans(self, seconds: int, since: float) -> Sequence[Span]:
        return [
            Span(
                start=start,
                traffic=Traffic(
                    requests=requests,
                    hits=hits,
                    failures=failures,
                    sent_bytes=sent_bytes,
                    hit_bytes=hit_bytes,
                    fetched_bytes=fetched_bytes,
                ),
            )
            for start, requests, hits, failures, sent_bytes, hit_bytes, fetched_bytes in self._database.execute(
                _SPANS, (seconds, int(since))
            )
        ]

    def _most_pulled(self) -> Sequence[Pulls]:
        found = self._database.execute(
            "SELECT repository, pulls, sent FROM pulls ORDER BY pulls DESC, sent DESC LIMIT ?", (_SHOWN_REPOSITORIES,)
        )
        return [Pulls(repository=name, pulls=pulls, sent_bytes=sent) for name, pulls, sent in found]

    def _problems(self) -> Sequence[Problem]:
        found = self._database.execute(
            "SELECT level, event, facts, times, last FROM problems ORDER BY last DESC LIMIT ?", (_SHOWN_PROBLEMS,)
        )
        return [
            Problem(level=level, event=event, facts=facts, times=times, last_at=last)
            for level, event, facts, times, last in found
        ]

    def _reports(self) -> Sequence[WorkerReport]:
        found = self._database.execute("SELECT report FROM workers ORDER BY worker").fetchall()
        reports = [read_report(json.loads(text)) for (text,) in found]
        # one that was killed could not take its report away
        return [report for report in reports if is_alive(report.process)]

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T | None:  # noqa: ANN401 - the work's own
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("figures.failed", error=f"{type(error).__name__}: {error}")
            return None


def _open_or_do_without(path: Path, now: float) -> sqlite3.Connection:
    """Open the file; where there can be none, figures last as long as the process. They are not worth failing for."""

    def opening(path: Path) -> sqlite3.Connection:
        try:
            return _open(str(path), now)
        except sqlite3.OperationalError as error:  # the disk is full or read-only: nothing is wrong with the file
            return do_without(error)

    def do_without(error: Exception) -> sqlite3.Connection:
        log.warning("figures.failed", error=str(error))
        return _open(":memory:", now)

    try:
        return open_or_replace(path, opening)
    except (sqlite3.Error, OSError) as error:
        return do_without(error)


def _open(path: str, now: float) -> sqlite3.Connection:
    def prepare(database: sqlite3.Connection) -> None:
        _check_version(database)
        database.executescript(_SCHEMA)
        with database:
            database.execute("INSERT INTO life SELECT ? WHERE NOT EXISTS (SELECT 1 FROM life)", (now,))

    return open_sqlite(path, prepare)


def _check_version(database: sqlite3.Connection) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in {0, _VERSION}:
        raise sqlite3.DatabaseError(f"the figures are of version {version}, not {_VERSION}")
