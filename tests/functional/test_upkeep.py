"""What goes through the whole cache behind the scenes: accounts become right, and rot is found."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.storage.blobs import FileBlobStore
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from tests.support.images import Image, blob, oci_image
from tests.support.mirrors import settings
from tests.support.pulling import MirrorClient, mirror_client
from tests.support.registry import TestRegistry

NAME = "library/app"
IMAGE, OTHER = (oci_image(number, layers=2, layer_bytes=30_000) for number in (101, 102))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def image_bytes(*images: Image) -> int:
    parts = {part.digest: part.size_bytes for image in images for part in image.blobs}
    return sum(parts.values()) + sum(len(image.manifest) for image in images)


async def pulled(client: MirrorClient, tag: str, image: Image) -> None:
    answers = await client.pull(NAME, tag, image)
    assert [answers[part.digest].body for part in image.blobs] == [part.content for part in image.blobs]
    await client.settled()


async def until(client: MirrorClient, condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await client.get("/healthz")


async def accounted(client: MirrorClient) -> dict[str, float]:
    lines = (await client.get("/metrics")).body.decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines)
        if name.startswith("mirror_cache_")
    }


async def until_accounted(client: MirrorClient, *, blobs: int, manifests: int, size_bytes: int) -> None:
    wanted = {
        "mirror_cache_bytes": size_bytes,
        'mirror_cache_objects{kind="blob"}': blobs,
        'mirror_cache_objects{kind="manifest"}': manifests,
    }

    async def is_so() -> bool:
        return wanted.items() <= (await accounted(client)).items()

    try:
        await until(client, is_so)
    except TimeoutError:
        pytest.fail(f"{await accounted(client)} is not {wanted}")


async def pull_both(registry: TestRegistry, folder: Path) -> None:
    """Pull two images through a mirror on a folder, and end it when they are accounted for."""
    registry.add(NAME, "1", IMAGE)
    registry.add(NAME, "2", OTHER)
    async with mirror_client(folder, settings({"docker.io": registry.base_url})) as client:
        await pulled(client, "1", IMAGE)
        await pulled(client, "2", OTHER)
        await until_accounted(client, blobs=6, manifests=2, size_bytes=image_bytes(IMAGE, OTHER))


def ledger_of(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "index" / "ledger.db")


async def test_accounts_that_are_lost_become_right_and_pins_are_kept(registry: TestRegistry, folder: Path) -> None:
    flags = settings({"docker.io": registry.base_url})
    await pull_both(registry, folder)
    with closing(DiskIndex(folder / "index")) as index:
        await index.pin(Repository("docker.io", NAME), "1", Digest.parse(IMAGE.digest))
    (folder / "index" / "ledger.db").unlink()
    async with mirror_client(folder, flags) as client:
        await until_accounted(client, blobs=6, manifests=2, size_bytes=image_bytes(IMAGE, OTHER))
        with closing(ledger_of(folder)) as ledger:
            assert ledger.execute("SELECT count(*) FROM needs").fetchone() == (6,)
            assert ledger.execute("SELECT digest FROM objects WHERE pinned").fetchall() == [(IMAGE.digest,)]
            assert ledger.execute("SELECT tag, digest FROM tags ORDER BY tag").fetchall() == [
                ("1", IMAGE.digest),
                ("2", OTHER.digest),
            ]
            ((used,),) = ledger.execute("SELECT used FROM objects WHERE digest = ?", (IMAGE.digest,)).fetchall()
    assert used == pytest.approx(Layout(folder).blob(Digest.parse(IMAGE.digest)).stat().st_mtime)


async def test_files_without_account_are_counted_and_accounts_without_file_are_not(
    registry: TestRegistry, folder: Path
) -> None:
    flags = settings({"docker.io": registry.base_url})
    await pull_both(registry, folder)
    layout, stranger, doomed = Layout(folder), blob(5000, 103), blob(6000, 104)
    for one in (stranger, doomed):
        await FileBlobStore(layout).put(Digest.parse(one.digest), one.content)
    with closing(ledger_of(folder)) as ledger, ledger:  # as a process leaves it that is killed in between
        ledger.execute("INSERT INTO doomed VALUES (?)", (doomed.digest,))
    lost = IMAGE.layers[0]
    for digest in (lost.digest, OTHER.digest):
        layout.blob(Digest.parse(digest)).unlink()
    temporary = layout.partial / "0123.put"
    temporary.write_bytes(b"left behind")
    os.utime(temporary, (1, 1))
    (layout.blobs / "sha256" / "00").mkdir(exist_ok=True)
    (layout.blobs / "sha256" / "00" / "README").write_bytes(b"not ours")
    async with mirror_client(folder, flags) as client:
        size_bytes = image_bytes(IMAGE, OTHER) - lost.size_bytes - len(OTHER.manifest) + stranger.size_bytes
        await until_accounted(client, blobs=6, manifests=1, size_bytes=size_bytes)
        assert not layout.blob(Digest.parse(doomed.digest)).exists()
        assert not temporary.exists()
        await pulled(client, "1", IMAGE)
        await pulled(client, "2", OTHER)
        await until_accounted(client, blobs=7, manifests=2, size_bytes=image_bytes(IMAGE, OTHER) + stranger.size_bytes)
        assert registry.count(kind="blob", method="GET") == 7  # what was lost, once more
        with closing(ledger_of(folder)) as ledger:
            assert ledger.execute(
                "SELECT digest, needed FROM objects WHERE kind = 'blob' AND needed != 1"
            ).fetchall() == [(stranger.digest, 0)]


@pytest.mark.parametrize("is_on", [True, False])
async def test_rot_that_shows_nowhere_else_is_found_behind_the_scenes(
    registry: TestRegistry, folder: Path, *, is_on: bool
) -> None:
    registry.add(NAME, "1", IMAGE)
    flags = settings({"docker.io": registry.base_url}, verify=is_on)
    async with mirror_client(folder, flags) as client:
        await pulled(client, "1", IMAGE)
        await until_accounted(client, blobs=3, manifests=1, size_bytes=image_bytes(IMAGE))
    file = Layout(folder).blob(Digest.parse(IMAGE.layers[1].digest))
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # a disk that rots changes no time
    with closing(DiskIndex(folder / "index")) as index:
        await index.put_note("verified to", "")
    async with mirror_client(folder, flags) as client:

        async def is_found() -> bool:
            return client.mirror.metrics.get_sample_value("mirror_blobs_damaged_total") == 1

        if is_on:
            await until(client, is_found)
            assert not file.exists()
            await pulled(client, "1", IMAGE)
        else:
            await until(client, lambda: client_is_idle(client))
            assert file.read_bytes() == content


async def client_is_idle(client: MirrorClient) -> bool:
    """Say whether the walk, which begins with the verification, has come to its end."""
    with closing(DiskIndex(client.mirror.folder / "index")) as index:
        return await index.find_note("walked to") is not None
