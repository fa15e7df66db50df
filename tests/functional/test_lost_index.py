"""The files are the truth: an index that is damaged, lost or old costs no blob, and no pull without the upstream."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.faults import Fault, Silence
from tests.support.images import Image, oci_image
from tests.support.mirrors import MirrorProcess, settings
from tests.support.pulling import MirrorClient, mirror_client
from tests.support.registry import TestRegistry

NAME = "library/app"
OLD, NEW = oci_image(91, layers=2, layer_bytes=20_000), oci_image(92, layers=2, layer_bytes=20_000)
Damage = Callable[[Path, Path], None]


def garbage(index: Path, yesterday: Path) -> None:
    """Write over every database, and leave what lies beside it."""
    for database in (*index.rglob("cache.db"), index / "ledger.db"):
        database.write_bytes(b"garbage" * 10_000)


def emptied(index: Path, yesterday: Path) -> None:
    for database in (*index.rglob("cache.db"), index / "ledger.db"):
        database.write_bytes(b"")


def gone(index: Path, yesterday: Path) -> None:
    shutil.rmtree(index)


def of_yesterday(index: Path, yesterday: Path) -> None:
    shutil.rmtree(index)
    shutil.copytree(yesterday, index)


def facts_of_yesterday(index: Path, yesterday: Path) -> None:
    shutil.rmtree(index / "facts")
    shutil.copytree(yesterday / "facts", index / "facts")


def ledger_gone(index: Path, yesterday: Path) -> None:
    (index / "ledger.db").unlink()


def cut_short(index: Path, yesterday: Path) -> None:
    for database in (*index.rglob("cache.db"), index / "ledger.db"):
        database.write_bytes(database.read_bytes()[:6000])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@asynccontextmanager
async def mirror(folder: Path, registry: TestRegistry, **cache: object) -> AsyncIterator[MirrorClient]:
    async with mirror_client(folder, settings({"docker.io": registry.base_url}, **cache), None) as client:
        yield client


async def pulled(client: MirrorClient, tag: str, image: Image) -> set[str]:
    """Pull an image, wait until all of it has its name in the store, and return what happened to its blobs."""
    answers = await client.pull(NAME, tag, image)
    assert answers["tag"].body == image.manifest
    assert [answers[part.digest].body for part in image.blobs] == [part.content for part in image.blobs]
    async with asyncio.timeout(10):
        while list((client.mirror.folder / "partial").iterdir()):
            await client.get("/healthz")
    return {answers[part.digest].cache_status for part in image.blobs}


@pytest.mark.parametrize(
    "damage",
    [garbage, emptied, cut_short, gone, of_yesterday, facts_of_yesterday, ledger_gone],
    ids=lambda it: it.__name__,
)
@pytest.mark.parametrize("is_upstream_there", [True, False], ids=["asked", "away"])
async def test_nothing_is_fetched_again(
    registry: TestRegistry, folder: Path, tmp_path: Path, damage: Damage, *, is_upstream_there: bool
) -> None:
    registry.add(NAME, "old", OLD)
    registry.add(NAME, "moved", OLD)
    async with mirror(folder, registry) as client:
        await pulled(client, "old", OLD)
        await pulled(client, "moved", OLD)
    shutil.copytree(folder / "index", tmp_path / "yesterday")
    registry.add(NAME, "moved", NEW)
    registry.add(NAME, "new", NEW)
    async with mirror(folder, registry) as client:
        await pulled(client, "new", NEW)
        client.mirror.clock.advance(3600)
        await pulled(client, "moved", NEW)
    damage(folder / "index", tmp_path / "yesterday")
    fetched = registry.count(kind="blob", method="GET"), registry.count(kind="manifest", method="GET")
    if not is_upstream_there:
        registry.fail(Fault(action=Silence()))
    async with mirror(folder, registry) as client:
        for tag, image in (("moved", NEW), ("new", NEW), ("old", OLD)):
            assert await pulled(client, tag, image) == {"mirror; hit"}
        assert (await client.get("/v2/_catalog")).json == {"repositories": [NAME]}
    assert (registry.count(kind="blob", method="GET"), registry.count(kind="manifest", method="GET")) == fetched


def main_files_of_yesterday(index: Path, yesterday: Path) -> None:
    """Copy what has the best names, as somebody does who does not know what belongs to a database."""
    for name in ("facts/cache.db", "repositories/cache.db", "ledger.db"):
        shutil.copyfile(yesterday / name, index / name)


@pytest.mark.parametrize(
    ("damage", "state"),
    [(main_files_of_yesterday, "killed"), (emptied, "killed"), (garbage, "running"), (cut_short, "running")],
)
async def test_nothing_is_fetched_again_where_more_than_the_database_is_left(
    registry: TestRegistry, tmp_path: Path, damage: Damage, state: str
) -> None:
    """A killed process leaves its log beside the database, which does not fit what took its place."""
    registry.add(NAME, "old", OLD)
    registry.add(NAME, "new", NEW)
    with MirrorProcess({"docker.io": registry.base_url}, folder=tmp_path, workers=2) as process:
        index = process.cache_folder / "index"
        await asyncio.to_thread(pulled_from, process, "old", OLD)
        shutil.copytree(index, tmp_path / "yesterday")
        await asyncio.to_thread(pulled_from, process, "new", NEW)
        if state == "killed":
            process.kill()
        damage(index, tmp_path / "yesterday")
        if state == "killed":
            process.start()
        fetched = registry.count(kind="blob", method="GET")
        for _ in range(3):
            for tag, image in (("new", NEW), ("old", OLD)):
                await asyncio.to_thread(pulled_from, process, tag, image)
        assert registry.count(kind="blob", method="GET") == fetched


def pulled_from(process: MirrorProcess, tag: str, image: Image) -> None:
    assert process.request(f"/v2/{NAME}/manifests/{tag}").body == image.manifest
    for part in image.blobs:
        assert process.request(f"/v2/{NAME}/blobs/{part.digest}").body == part.content
