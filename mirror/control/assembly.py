"""Which operations there are: on a cache folder, and with a running server."""

from __future__ import annotations

import asyncio
import functools
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror import __version__
from mirror.control import warming
from mirror.control.caring import Caring
from mirror.control.looking import Listing, Looking
from mirror.control.operations import Operation, Operations
from mirror.control.warming import WarmOperation
from mirror.engine.care import Care
from mirror.engine.eviction import EVICTION_LOCK
from mirror.engine.warm import Warming
from mirror.errors import ControlFailed
from mirror.oci.image_name import ImageNames
from mirror.storage.blobs import FileBlobStore
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from mirror.storage.locks import FileLocks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from mirror.config import Config
    from mirror.control.operations import Document
    from mirror.engine.pull import PullThrough
    from mirror.figures import Overview, Since
    from mirror.ports import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderParts:
    """What there is of a cache folder."""

    config: Config
    index: DiskIndex
    store: FileBlobStore
    held_off: Callable[[], AbstractAsyncContextManager[None]]
    """Keeps eviction from running in any process."""
    memory: PullThrough | None = None

    @property
    def names(self) -> ImageNames:
        """What reads images' names."""
        return ImageNames(self.config.upstreams, default=self.config.default_upstream.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParts(FolderParts):
    """What there is of a running server; add what an operation needs."""

    since: Since
    overview: Callable[[], Awaitable[Overview]]
    pull: PullThrough
    upstreams: Mapping[str, Upstream]


def of_server(parts: ServerParts) -> Operations:
    """Return what a running server does when it is asked."""

    async def server() -> Document:
        overview = await parts.overview()
        return {
            "version": __version__,
            "process": os.getpid(),
            "started": parts.since.started,
            "reloaded": parts.since.reloaded,
            "overview": overview.to_json(),
        }

    looking = Looking(parts.index, parts.store, bounds=_bounds(parts.config), server=server)
    rules = {one.name: one.rules for one in parts.config.upstreams.values()}
    warm = WarmOperation(Warming(parts.pull, parts.upstreams, rules), parts.names)
    return Operations(
        [
            *_for_both(parts, looking),
            Operation(name="warm", run=warm.run, accepts=warming.ACCEPTS, changes_cache=True),
        ]
    )


@asynccontextmanager
async def of_folder(config: Config) -> AsyncIterator[Operations]:
    """Lend what can be done with a cache folder on which no server runs.

    Raises:
        ControlFailed: there is no such folder.
        OSError: it cannot be used.
    """
    layout = Layout(config.cache.dir)
    if not layout.index.is_dir():
        text = f"nothing is cached in {config.cache.dir}; name the mirror's configuration by --config"
        raise ControlFailed(f"{text}, or its cache folder by --cache-dir")
    index = await asyncio.to_thread(DiskIndex, layout.index)
    locks = FileLocks(layout.locks)
    try:
        held_off = functools.partial(locks.hold, EVICTION_LOCK)
        parts = FolderParts(config=config, index=index, store=FileBlobStore(layout), held_off=held_off)
        yield Operations(_for_both(parts, Looking(parts.index, parts.store, bounds=_bounds(config))))
    finally:
        locks.close()
        await asyncio.to_thread(index.close)


def _for_both(parts: FolderParts, looking: Looking) -> Sequence[Operation]:
    listing = Listing(parts.index, parts.names, parts.config.upstreams)
    caring = Caring(Care(parts.index, parts.store, alone=parts.held_off, memory=parts.memory), parts.names)
    return [
        Operation(name="status", run=looking.status),
        Operation(name="ls", run=listing.list, accepts=["repository"]),
        Operation(name="pin", run=caring.pin, accepts=["image"], changes_cache=True),
        Operation(name="unpin", run=caring.unpin, accepts=["image"], changes_cache=True),
        Operation(name="rm", run=caring.remove, accepts=["image", "all_tags"], changes_cache=True),
        Operation(name="gc", run=caring.collect, accepts=["older_than_seconds"], changes_cache=True),
    ]


def _bounds(config: Config) -> Document:
    return {
        "folder": str(config.cache.dir),
        "max_size_bytes": config.cache.max_size_bytes,
        "min_free_bytes": config.cache.min_free_bytes,
    }
