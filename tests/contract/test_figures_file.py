"""The figures file: what is added up, for how long it is kept, and that it stays small."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mirror.figures import GENERATION_BITS, Counted, Problem, Pulls, Traffic, Transfer, WorkerReport
from mirror.storage.figures import FiguresFile, start_of_day

MORNING = float(start_of_day(1_700_000_000.0) + 8 * 3600)
DAY = 86400
OWN = os.getpid() << GENERATION_BITS | 1


@pytest.fixture
def file(tmp_path: Path) -> Iterator[FiguresFile]:
    opened = FiguresFile(tmp_path / "figures.db", MORNING)
    yield opened
    opened.close()


def report(at: float, worker: int | None = None) -> WorkerReport:
    return WorkerReport(worker=OWN if worker is None else worker, at=at)


async def add(file: FiguresFile, at: float, *, requests: int = 1) -> None:
    assert await file.write(Counted(traffic=Traffic(requests=requests, sent_bytes=10)), report(at))


async def test_what_is_added_counts_for_its_minute_its_hour_its_day_and_for_ever(file: FiguresFile) -> None:
    for at in (MORNING, MORNING + 30, MORNING + 90, MORNING + 4000):
        await add(file, at)
    history = await file.read(MORNING + 4000)
    assert history.since == MORNING
    assert [(one.start - MORNING, one.traffic.requests) for one in history.minutes] == [(0, 2), (60, 1), (3960, 1)]
    assert [(one.start - MORNING, one.traffic.requests) for one in history.hours] == [(0, 3), (3600, 1)]
    assert history.today == history.life == Traffic(requests=4, sent_bytes=40)


async def test_a_new_day_begins_at_nothing_and_the_life_goes_on(file: FiguresFile) -> None:
    await add(file, MORNING)
    history = await file.read(MORNING + DAY)
    assert (history.today.requests, history.life.requests) == (0, 1)
    await add(file, MORNING + DAY)
    history = await file.read(MORNING + DAY)
    assert (history.today.requests, history.life.requests) == (1, 2)


async def test_it_outlives_its_process_and_several_may_write(tmp_path: Path) -> None:
    for number in range(3):
        with closing(FiguresFile(tmp_path / "figures.db", MORNING + number)) as file:
            await add(file, MORNING + number)
            with closing(FiguresFile(tmp_path / "figures.db", MORNING)) as other:
                await add(other, MORNING + number)
    with closing(FiguresFile(tmp_path / "figures.db", MORNING + 9)) as file:
        history = await file.read(MORNING + 9)
    assert (history.since, history.life.requests) == (MORNING, 6)


async def test_after_years_it_is_as_small_as_after_weeks(file: FiguresFile, tmp_path: Path) -> None:
    for day in range(0, 3000, 20):
        await add(file, MORNING + day * DAY)
    with closing(sqlite3.connect(tmp_path / "figures.db")) as database:
        rows = dict(database.execute("SELECT seconds, count(*) FROM spans GROUP BY seconds"))
    assert rows[0] == 1
    assert rows[60] == 1
    assert rows[3600] <= 5
    assert rows[86400] <= 20
    assert (await file.read(MORNING + 3000 * DAY)).life.requests == 150


async def test_repositories_and_problems_are_bounded_and_the_latest_stay(file: FiguresFile) -> None:
    for second in range(4):
        pulls = [Pulls(repository=f"docker.io/a/{second}-{number}", pulls=1) for number in range(1000)]
        problem = Problem(level="error", event="store.failed", facts="", times=1, last_at=0)
        at = MORNING + second * 100
        problems = {
            ("store.failed", str(number)): Problem(
                level=problem.level, event=problem.event, facts=f"{second}-{number}", times=1, last_at=at
            )
            for number in range(100)
        }
        await file.write(Counted(pulls={one.repository: one for one in pulls}, problems=problems), report(at))
    history = await file.read(MORNING + 400)
    assert len(history.most_pulled) == 10
    assert {one.last_at for one in history.problems} == {MORNING + 300}
    assert len(history.problems) == 20


async def test_the_most_pulled_come_first(file: FiguresFile) -> None:
    for name, number in (("a", 1), ("b", 5), ("a", 3)):
        one = Pulls(repository=name, pulls=number, sent_bytes=number)
        await file.write(Counted(pulls={name: one}), report(MORNING))
    history = await file.read(MORNING)
    assert [(one.repository, one.pulls, one.sent_bytes) for one in history.most_pulled] == [("b", 5, 5), ("a", 4, 4)]


async def test_a_report_is_read_as_it_was_written_and_gone_with_its_process(file: FiguresFile) -> None:
    transfer = Transfer(digest="sha256:0", repository="a", size_bytes=None, done_bytes=5, followers=1)
    told = WorkerReport(worker=OWN, at=MORNING, transfers=[transfer], upstreams=[])
    await file.write(Counted(), told)
    await file.write(Counted(), report(MORNING, worker=2**23 << GENERATION_BITS))  # no process has that
    assert list((await file.read(MORNING)).reports) == [told]
    await file.forget_worker(OWN)
    assert list((await file.read(MORNING)).reports) == []


async def test_where_there_can_be_no_file_figures_last_as_long_as_the_process(tmp_path: Path) -> None:
    with closing(FiguresFile(tmp_path / "missing" / "figures.db", MORNING)) as file:
        await add(file, MORNING)
        assert (await file.read(MORNING)).life.requests == 1


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 5000, b"text" * 100])
async def test_a_damaged_file_is_put_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "figures.db"
    path.write_bytes(content)
    with closing(FiguresFile(path, MORNING)) as file:
        await add(file, MORNING)
        assert (await file.read(MORNING)).life.requests == 1
    assert bool(list(tmp_path.glob("figures.db.damaged-*"))) == bool(content)
