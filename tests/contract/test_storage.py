"""What `mirror.ports` promises of storage, shown on real files, two workers included."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import diskcache
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag
from mirror.oci.requests import Kind, Page
from mirror.policy import StoredTag
from mirror.ports import Claim, Held, Origin, Totals
from mirror.storage.blobs import FileBlobStore
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from mirror.storage.leftovers import remove_temporary_files_of
from mirror.storage.locks import FileLocks
from mirror.storage.memory import HotValues

ALPINE = Repository("docker.io", "library/alpine")
CONTENT = b"content" * 1000
DIGEST = Digest.of(CONTENT)
DESCRIPTOR = Descriptor(media_type="application/vnd.oci.image.index.v1+json", digest=DIGEST, size_bytes=7)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cache")
    made.create()
    return made


@pytest.fixture
def index(layout: Layout) -> Iterator[DiskIndex]:
    with closing(DiskIndex(layout.index)) as opened:
        yield opened


# Blobs


async def test_what_is_put_is_found_whole(layout: Layout) -> None:
    store = FileBlobStore(layout)
    assert await store.find(DIGEST) is None
    assert await store.put(DIGEST, CONTENT)
    assert not await store.put(DIGEST, CONTENT)
    body = await store.find(DIGEST)
    assert body is not None
    with closing(body):
        assert await body.readable_to(0) == body.size_bytes == len(CONTENT)
        layout.blob(DIGEST).unlink()  # evicted while it is sent
        assert os.pread(body.fileno(), len(CONTENT), 0) == CONTENT


async def test_reading_a_blob_writes_nothing(layout: Layout) -> None:
    store, path = FileBlobStore(layout), layout.blob(DIGEST)
    await store.put(DIGEST, CONTENT)
    os.utime(path, (1.0, path.stat().st_mtime))  # long ago: most systems would note a new time
    assert await store.read(DIGEST, limit_bytes=len(CONTENT)) == CONTENT
    body = await store.find(DIGEST)
    assert body is not None
    with closing(body):
        assert os.pread(body.fileno(), len(CONTENT), 0) == CONTENT
    assert path.stat().st_atime == 1.0


async def test_a_rotten_manifest_is_as_good_as_none(layout: Layout) -> None:
    store = FileBlobStore(layout)
    await store.put(DIGEST, CONTENT)
    assert await store.read(DIGEST, limit_bytes=len(CONTENT)) == CONTENT
    assert await store.read(DIGEST, limit_bytes=10) is None
    layout.blob(DIGEST).write_bytes(b"x" + CONTENT[1:])
    assert await store.read(DIGEST, limit_bytes=len(CONTENT)) is None


async def test_a_link_in_the_store_is_not_followed(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    path = layout.blob(DIGEST)
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(Exception, match="cannot open"):
        await FileBlobStore(layout).find(DIGEST)


async def test_a_partial_blob_has_one_writer_and_the_next_goes_on(layout: Layout) -> None:
    store = FileBlobStore(layout)
    origin = Origin(repository=ALPINE, kind=Kind.BLOB, size_bytes=len(CONTENT))
    first, second = await store.open_partial(DIGEST), await store.open_partial(DIGEST)
    assert (first.claim(), second.claim()) == (Claim.WRITER, Claim.BUSY)
    await first.announce(origin)
    await first.append(CONTENT[:10])
    await first.append(memoryview(CONTENT)[10:30])
    assert second.written_bytes() == 30
    assert await second.announced() == origin
    first.close()
    assert second.claim() is Claim.WRITER
    await second.read_written()
    await second.append(CONTENT[30:])
    assert second.matches()
    assert not second.is_verified()
    second.mark_verified()
    await second.commit()
    assert second.is_verified()
    third = await store.open_partial(DIGEST)
    assert third.claim() is Claim.STORED
    second.close()
    third.close()
    assert await store.read(DIGEST, limit_bytes=len(CONTENT)) == CONTENT
    assert not list(layout.partial.iterdir())


async def test_followers_find_a_discarded_file_discarded(layout: Layout) -> None:
    store = FileBlobStore(layout)
    writer, follower = await store.open_partial(DIGEST), await store.open_partial(DIGEST)
    assert writer.claim() is Claim.WRITER
    await writer.append(b"wrong")
    assert not writer.matches()
    await writer.discard()
    writer.close()
    assert follower.claim() is Claim.DISCARDED
    follower.close()


async def test_the_start_keeps_what_can_be_gone_on_with_and_clears_the_rest(layout: Layout) -> None:
    store = FileBlobStore(layout)
    known, unknown = DIGEST, Digest.of(b"other")
    origin = Origin(repository=ALPINE, kind=Kind.BLOB, size_bytes=None)
    for digest in (known, unknown):
        partial = await store.open_partial(digest)
        partial.claim()
        await partial.append(b"x")
        if digest is known:
            await partial.announce(origin)
        partial.close()
    (layout.partial / "0123.put").write_bytes(b"half a manifest")
    (layout.partial / f"sha256-{'0' * 64}.origin").write_bytes(b"{}")
    store.clean()
    assert await store.partials() == [(known, origin)]
    assert len(list(layout.partial.iterdir())) == 2


# Index


async def test_facts_are_found_again_by_another_worker_and_after_a_restart(layout: Layout, index: DiskIndex) -> None:
    stored = StoredTag(descriptor=DESCRIPTOR, confirmed_at=12.5)
    held = Held(descriptor=DESCRIPTOR, is_manifest=True)
    with closing(DiskIndex(layout.index)) as other:
        await index.put_tag(ALPINE, Tag("3"), stored)
        await index.put_held(ALPINE, [held])
        assert await other.find_tag(ALPINE, Tag("3")) == stored
        assert await other.find_held(ALPINE, DIGEST) == held
        assert await other.find_held(Repository("docker.io", "library/other"), DIGEST) is None
        await other.drop_tag(ALPINE, Tag("3"))
    assert await index.find_tag(ALPINE, Tag("3")) is None
    assert await index.tags_of(ALPINE) == []


async def test_totals_add_up_over_workers(layout: Layout, index: DiskIndex) -> None:
    with closing(DiskIndex(layout.index)) as other:
        digests = [Digest.of(bytes([number])) for number in range(40)]
        await asyncio.gather(*((index, other)[number % 2].add_blob(one, 5) for number, one in enumerate(digests)))
        await asyncio.gather(*(each.add_blob(digests[0], 5) for each in (index, other)))  # once more is still once
    assert await index.totals() == Totals(size_bytes=200, objects={Kind.BLOB: 40, Kind.MANIFEST: 0})


async def test_the_catalog_is_paged_in_order(index: DiskIndex) -> None:
    names = [Repository("docker.io", f"library/{name}") for name in ("c", "a", "b")]
    for repository in names:
        await index.put_held(repository, [])
    first, has_more = await index.repositories(Page(limit=2))
    assert ([one.name for one in first], has_more) == (["library/a", "library/b"], True)
    rest, has_more = await index.repositories(Page(limit=2, last=str(first[-1])))
    assert ([one.name for one in rest], has_more) == (["library/c"], False)


@pytest.mark.parametrize("garbage", [b"", b"garbage" * 1000], ids=["empty", "garbage"])
async def test_a_damaged_index_knows_nothing_and_works(layout: Layout, garbage: bytes) -> None:
    with closing(DiskIndex(layout.index)) as index:
        await index.put_held(ALPINE, [Held(descriptor=DESCRIPTOR, is_manifest=False)])
    for database in layout.index.rglob("cache.db*"):
        database.unlink() if database.suffix != ".db" else database.write_bytes(garbage)
    with closing(DiskIndex(layout.index)) as index:
        assert await index.find_held(ALPINE, DIGEST) is None
        await index.put_held(ALPINE, [Held(descriptor=DESCRIPTOR, is_manifest=False)])
        assert await index.find_held(ALPINE, DIGEST) is not None


async def test_a_pickle_in_the_index_is_not_loaded(layout: Layout, index: DiskIndex, tmp_path: Path) -> None:
    """CVE-2025-69872: what diskcache would unpickle runs as code."""
    trap = tmp_path / "trapped"
    code = f"import pathlib; pathlib.Path({str(trap)!r}).touch()"
    pickled = b"cbuiltins\nexec\n(V" + code.encode() + b"\ntR."
    with closing(sqlite3.connect(layout.index / "facts" / "cache.db")) as database, database:
        database.execute(
            "INSERT INTO Cache(key, raw, store_time, access_time, mode, value) VALUES (?, 1, 0, 0, ?, ?)",
            (f"held:{ALPINE}@{DIGEST}", diskcache.core.MODE_PICKLE, pickled),
        )
    assert await index.find_held(ALPINE, DIGEST) is None
    assert not trap.exists()


# Locks and memory


async def test_a_lock_keeps_another_process_out_until_it_dies(layout: Layout) -> None:
    program = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom mirror.storage.locks import FileLocks\n"
        "async def main():\n"
        "    async with FileLocks(Path(sys.argv[1])).hold('key'):\n"
        "        print('held', flush=True)\n        sys.stdin.read()\n"
        "asyncio.run(main())\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(layout.locks)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with closing(FileLocks(layout.locks)) as locks, holder.stdin, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        async with locks.hold("another key"):
            pass
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), locks.hold("key"):
                pass
        holder.kill()
        async with asyncio.timeout(5), locks.hold("key"):
            holder.wait()


async def test_memory_drops_the_least_recently_used() -> None:
    memory: HotValues[int] = HotValues(limit=3)
    for number in range(3):
        await memory.put(str(number), number)
    assert await memory.find("0") == 0
    await memory.put("3", 3)
    assert [await memory.find(str(number)) for number in range(4)] == [0, None, 2, 3]
    await memory.put("large", 9, weight=4)
    assert len(memory) == 0


async def test_what_killed_workers_left_is_swept_away_while_others_work(layout: Layout) -> None:
    store, now = FileBlobStore(layout), time.time()
    busy, left, abandoned = DIGEST, Digest.of(b"left"), Digest.of(b"abandoned")
    origin = Origin(repository=ALPINE, kind=Kind.BLOB, size_bytes=None)
    for digest in (busy, left, abandoned):
        partial = await store.open_partial(digest)
        assert partial.claim() is Claim.WRITER
        await partial.append(b"x")
        if digest is not left:
            await partial.announce(origin)
        if digest is not busy:
            partial.close()
    os.utime(layout.partial_blob(abandoned), (now - 90_000, now - 90_000))
    orphan, fresh, old = (layout.partial / name for name in (f"sha256-{'0' * 64}.origin", "1-1.put", "1-2.put"))
    for path in (orphan, fresh, old):
        path.write_bytes(b"{}")
    os.utime(old, (now - 90_000, now - 90_000))
    await store.sweep(now=now)
    assert await store.partials() == [(busy, origin)]
    assert len(list(layout.partial.iterdir())) == 3
    remove_temporary_files_of(layout, 1)
    assert not fresh.exists()


@given(puts=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(min_value=0, max_value=12)), max_size=40))
def test_memory_is_never_over_its_limit(puts: list[tuple[str, int]]) -> None:
    async def run() -> None:
        memory: HotValues[int] = HotValues(limit=10)
        weights: dict[str, int] = {}
        for key, weight in puts:
            await memory.put(key, weight, weight=weight)
            weights[key] = weight
            kept = [name for name in weights if await memory.find(name) is not None]
            assert sum(weights[name] for name in kept) <= 10

    asyncio.run(run())


async def test_memory_forgets_when_the_time_has_come() -> None:
    memory: HotValues[int] = HotValues(limit=3)
    await memory.put("short", 1, ttl_seconds=0.01)
    await memory.put("none", 1, ttl_seconds=0)
    assert await memory.find("none") is None
    async with asyncio.timeout(5):
        while await memory.find("short") is not None:
            await asyncio.to_thread(os.sched_yield)
