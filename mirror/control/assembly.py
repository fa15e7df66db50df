"""Which operations there are: on a cache folder, and with a running server."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror import __version__
from mirror.control import warming
from mirror.control.looking import Looking
from mirror.control.operations import Operation, Operations
from mirror.control.warming import WarmOperation
from mirror.engine.warm import Warming
from mirror.errors import ControlFailed
from mirror.oci.image_name import ImageNames
from mirror.storage.blobs import FileBlobStore
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from mirror.config import Config
    from mirror.control.operations import Document
    from mirror.engine.pull import PullThrough
    from mirror.figures import Overview
    from mirror.ports import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderParts:
    """What there is of a cache folder."""

    config: Config
    index: DiskIndex
    store: FileBlobStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParts(FolderParts):
    """What there is of a running server; add what an operation needs."""

    overview: Callable[[], Awaitable[Overview]]
    pull: PullThrough
    upstreams: Mapping[str, Upstream]


def of_server(parts: ServerParts) -> Operations:
    """Return what a running server does when it is asked."""
    started = time.time()

    async def server() -> Document:
        overview = await parts.overview()
        return {
            "version": __version__,
            "process": os.getpid(),
            "started": started,
            "overview": overview.to_json(),
        }

    looking = Looking(parts.index, parts.store, bounds=_bounds(parts.config), server=server)
    names = ImageNames(parts.config.upstreams, default=parts.config.default_upstream.name)
    rules = {one.name: one.rules for one in parts.config.upstreams.values()}
    warm = WarmOperation(Warming(parts.pull, parts.upstreams, rules), names)
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
    try:
        parts = FolderParts(config=config, index=index, store=FileBlobStore(layout))
        yield Operations(_for_both(parts, Looking(parts.index, parts.store, bounds=_bounds(config))))
    finally:
        await asyncio.to_thread(index.close)


def _for_both(_parts: FolderParts, looking: Looking) -> Sequence[Operation]:
    return [Operation(name="status", run=looking.status)]


def _bounds(config: Config) -> Document:
    return {
        "folder": str(config.cache.dir),
        "max_size_bytes": config.cache.max_size_bytes,
        "min_free_bytes": config.cache.min_free_bytes,
    }
