"""A download that is cancelled at any of its awaits leaves nothing open, nothing wrong, and the way free for the next.

Idea: https://github.com/encode/httpcore/blob/1.0.9/tests/test_cancellations.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import types
from collections.abc import AsyncIterator, Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mirror.concurrency.single_flight import SingleFlight
from mirror.concurrency.supervisor import Supervisor
from mirror.credentials.sources import CredentialSources
from mirror.engine.download import Download
from mirror.engine.source import Source
from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository
from mirror.policy import TagLifetime
from mirror.ports import Claim
from mirror.storage.blobs import FileBlobStore, StoredBody
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from mirror.storage.locks import FileLocks
from mirror.storage.memory import HotValues
from mirror.storage.partial import PartialFile
from mirror.telemetry.metrics import Metrics
from mirror.upstream.assembly import Shared, make_client
from mirror.upstream.sessions import Sessions
from tests.support.clock import MovableClock
from tests.support.faults import Cut, Fault, Redirect
from tests.support.images import blob
from tests.support.mirrors import configure, settings
from tests.support.registry import TestRegistry

NAME = "library/app"
LAYER = blob(300_000, 71)
AWAITS = 26


class Boundless:
    """A store with room for everything."""

    def has_room_for(self, size_bytes: int | None) -> bool:  # noqa: ARG002 - the port's signature
        return True

    async def make_room(self) -> None:
        """Need to make none."""

    async def admit(self, digest: Digest, size_bytes: int) -> bool:  # noqa: ARG002 - the port's signature
        return True

    async def settle(self, digest: Digest) -> None:
        """Evict nothing."""

    def note_change(self) -> None:
        """Look at nothing."""


@types.coroutine
def cancelled_at(work: Coroutine[Any, Any, None], step: int) -> Generator[Any, Any, bool]:
    """Drive a coroutine, and cancel its task while it waits for the ``step``th time; return whether it came so far."""
    task = asyncio.current_task()
    assert task is not None
    current = 0
    try:
        awaited = work.send(None)
        while True:
            if current == step:
                asyncio.get_running_loop().call_soon(task.cancel)
            current += 1
            try:
                value = yield awaited
            except asyncio.CancelledError as error:
                awaited = work.throw(error)
            else:
                awaited = work.send(value)
    except StopIteration:
        return current > step
    except asyncio.CancelledError:
        task.uncancel()
        return True


def open_files() -> list[str]:
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(str(path.readlink()))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a download is made of."""

    registry: TestRegistry
    layout: Layout
    source: Source
    metrics: Metrics


@contextlib.asynccontextmanager
async def prepared(folder: Path) -> AsyncIterator[Parts]:
    """Give what a download of `LAYER` needs, from a registry that has it."""
    async with TestRegistry() as registry:
        registry.add_blob(NAME, LAYER)
        one = configure(folder, settings({"docker.io": registry.base_url})).upstreams["docker.io"]
        layout = Layout(folder)
        await asyncio.to_thread(layout.create)
        index = await asyncio.to_thread(DiskIndex, layout.index)
        locks = FileLocks(layout.locks)
        metrics = Metrics(CollectorRegistry())
        clock = MovableClock().now
        async with Supervisor(expected=MirrorError) as supervisor, Sessions(one) as sessions:
            shared = Shared(
                supervisor=supervisor,
                tokens=HotValues(limit=1),
                flights=SingleFlight(supervisor, name="token"),
                notes=index,
                locks=locks,
                observer=metrics,
                clock=clock,
            )
            source_of_none = CredentialSources(configure(folder, {}), clock).of(one)
            lifetime = TagLifetime(fresh_seconds=1, stale_seconds=1)
            upstream = make_client(one, sessions, source_of_none, shared, tag_lifetime=lifetime)

            async def confirm() -> None:
                """Need no proof."""

            source = Source(repository=Repository("docker.io", NAME), upstream=upstream, confirm=confirm)
            yield Parts(registry=registry, layout=layout, source=source, metrics=metrics)
        locks.close()
        await asyncio.to_thread(index.close)


@pytest.mark.parametrize("step", range(AWAITS + 1))
async def test_a_download_cancelled_at_an_await_leaves_no_trace(tmp_path: Path, step: int) -> None:
    async with prepared(tmp_path) as parts:
        parts.registry.fail(Fault(action=Redirect(), kind="blob", times=1), Fault(action=Cut(fraction=0.5), times=1))
        store, digest = FileBlobStore(parts.layout), Digest.parse(LAYER.digest)
        await asyncio.to_thread(os.getpid)  # the pool's own files are there from now on
        before = open_files()
        download = Download(digest, parts.source, store, Boundless(), parts.metrics)
        was_cancelled = await asyncio.create_task(cancelled_at(download.run(), step))  # noqa: TID251
        assert was_cancelled or download.is_complete
        assert step < AWAITS or not was_cancelled  # there is no await beyond those that were tried
        again = Download(digest, parts.source, store, Boundless(), parts.metrics)
        await again.run()
        body = await store.find(digest)
        assert body is not None
        assert os.pread(body.fileno(), LAYER.size_bytes + 1, 0) == LAYER.content
        body.close()
        assert not list(parts.layout.partial.iterdir())
    async with asyncio.timeout(5):
        while len(open_files()) > len(before):  # connections close in their own time
            await asyncio.to_thread(os.sched_yield)


class Evicting(FileBlobStore):
    """A store in which another worker finishes the same download first, and where that is evicted at once."""

    was_stored = False

    async def open_partial(self, digest: Digest) -> PartialFile:
        ours = await super().open_partial(digest)
        if not self.was_stored:
            self.was_stored = True
            with contextlib.closing(await super().open_partial(digest)) as theirs:
                assert theirs.claim() is Claim.WRITER
                await theirs.append(LAYER.content)
                theirs.mark_verified()
                await theirs.commit()
        return ours

    async def find(self, digest: Digest) -> StoredBody | None:
        await self.remove([digest])
        return await super().find(digest)


async def test_what_another_worker_has_stored_and_evicted_meanwhile_is_served_or_fetched_anew(tmp_path: Path) -> None:
    async with prepared(tmp_path) as parts:
        download = Download(
            Digest.parse(LAYER.digest), parts.source, Evicting(parts.layout), Boundless(), parts.metrics
        )
        async with asyncio.TaskGroup() as group:
            following = group.create_task(download.follow())
            group.create_task(download.run())
        body = following.result()
        assert await body.readable_to(0) == LAYER.size_bytes
        assert os.pread(body.fileno(), LAYER.size_bytes + 1, 0) == LAYER.content
        body.close()
