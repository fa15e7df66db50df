"""The composition root: configuration in, one running mirror out; lifetimes end in the reverse order."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry

from mirror.concurrency.single_flight import SingleFlight
from mirror.concurrency.supervisor import Supervisor
from mirror.engine.blobs import Blobs
from mirror.engine.download import Source
from mirror.engine.downloads import Downloads
from mirror.engine.lists import Lists
from mirror.engine.manifests import Manifests
from mirror.engine.pull import PullThrough
from mirror.engine.refusals import Refusals
from mirror.engine.tags import Tags
from mirror.errors import MirrorError
from mirror.policy import TagLifetime
from mirror.storage.blobs import FileBlobStore
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from mirror.storage.locks import FileLocks
from mirror.storage.memory import HotValues
from mirror.telemetry.metrics import Metrics, render
from mirror.upstream.auth import Authenticator
from mirror.upstream.client import RegistryClient
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.sessions import Sessions
from mirror.upstream.transport import Transport
from mirror.web.ops import OpsHandlers
from mirror.web.pull import PullHandlers
from mirror.web.routes import Router
from mirror.web.server import Handler, HttpServer

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mirror.config import Config, UpstreamConfig
    from mirror.ports import Clock
    from mirror.upstream.tokens import Token, TokenRefused

_HOT_MANIFEST_BYTES = 32 * 1024 * 1024
_HOT_LIST_BYTES = 8 * 1024 * 1024
_HOT_ENTRIES = 50_000
_TOKENS = 10_000
_NO_GRACE_SECONDS = 0.01  # aiohttp takes 0 for "as long as it takes"


def prepare_store(config: Config) -> None:
    """Make the cache folder and clear what killed processes left; once, before any worker runs.

    Raises:
        OSError: the folder cannot be made.
    """
    layout = Layout(config.cache.dir)
    layout.create()
    FileBlobStore(layout).clean()


@asynccontextmanager
async def running(
    config: Config, sockets: Sequence[socket.socket], *, clock: Clock = time.time
) -> AsyncIterator[CollectorRegistry]:
    """Serve on listening sockets while the block runs; then let running transfers end within the configured grace."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, config.upstreams)
    layout = Layout(config.cache.dir)
    async with AsyncExitStack() as stack:
        index = await asyncio.to_thread(DiskIndex, layout.index)
        stack.push_async_callback(asyncio.to_thread, index.close)
        locks = FileLocks(layout.locks)
        stack.callback(locks.close)
        supervisor = Supervisor(expected=MirrorError)
        store = FileBlobStore(layout)
        upstreams = await _open_upstreams(config, stack, supervisor, metrics, clock)
        await stack.enter_async_context(supervisor)  # after the sessions: downloads are ended before their connections
        downloads = Downloads(store, index, supervisor, metrics)
        pull = _pull_through(config, store, index, locks, supervisor, downloads, clock)

        async def scrape() -> bytes:
            size_bytes, objects = await index.totals()
            shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
            return await asyncio.to_thread(
                render, registry, shared_folder=shared, size_bytes=size_bytes, objects=objects
            )

        hostnames = {host: one.name for one in config.upstreams.values() for host in one.hostnames}
        router = Router(upstreams, default=config.default_upstream.name, hostnames=hostnames)
        handler = Handler(PullHandlers(router, pull), OpsHandlers(store, scrape), metrics)
        runner = web.ServerRunner(
            HttpServer(handler), shutdown_timeout=max(config.server.shutdown_grace_seconds, _NO_GRACE_SECONDS)
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        for listening in sockets:
            await web.SockSite(runner, listening).start()
        _ = supervisor.start(_resume(store, downloads, upstreams), name="resume downloads")
        yield registry


async def _open_upstreams(
    config: Config, stack: AsyncExitStack, supervisor: Supervisor, metrics: Metrics, clock: Clock
) -> Mapping[str, RegistryClient]:
    tokens: HotValues[str] = HotValues(limit=_TOKENS)
    flights: SingleFlight[str, Token | TokenRefused] = SingleFlight(supervisor, name="token")
    clients = {}
    for name, one in config.upstreams.items():
        sessions = await stack.enter_async_context(Sessions(one))
        endpoints = Endpoints(one.endpoints, clock, read_timeout_seconds=one.read_timeout_seconds)
        auth = Authenticator(one, sessions, tokens=tokens, flights=flights, observer=metrics, clock=clock)
        transport = Transport(one, sessions, auth, endpoints, observer=metrics, clock=clock)
        clients[name] = RegistryClient(one, transport, endpoints, tag_lifetime=_lifetime(config, one), observer=metrics)
    return clients


def _lifetime(config: Config, upstream: UpstreamConfig) -> TagLifetime:
    return TagLifetime(fresh_seconds=upstream.tag_ttl_seconds, stale_seconds=config.cache.stale_if_error_seconds)


def _pull_through(
    config: Config,
    store: FileBlobStore,
    index: DiskIndex,
    locks: FileLocks,
    supervisor: Supervisor,
    downloads: Downloads,
    clock: Clock,
) -> PullThrough:
    refusals = Refusals(HotValues(limit=_HOT_ENTRIES), clock, ttl_seconds=config.cache.negative_ttl_seconds)
    manifests = Manifests(
        store=store,
        index=index,
        memory=HotValues(limit=_HOT_MANIFEST_BYTES),
        locks=locks,
        flights=SingleFlight(supervisor, name="manifest"),
        refusals=refusals,
    )
    tags = Tags(
        index=index,
        memory=HotValues(limit=_HOT_ENTRIES),
        locks=locks,
        flights=SingleFlight(supervisor, name="tag"),
        manifests=manifests,
        refusals=refusals,
        clock=clock,
    )
    blobs = Blobs(
        store=store,
        index=index,
        memory=HotValues(limit=_HOT_ENTRIES),
        downloads=downloads,
        flights=SingleFlight(supervisor, name="blob"),
        refusals=refusals,
    )
    return PullThrough(tags, manifests, blobs, Lists(index, HotValues(limit=_HOT_LIST_BYTES), clock))


async def _resume(store: FileBlobStore, downloads: Downloads, upstreams: Mapping[str, RegistryClient]) -> None:
    """Go on with what an earlier process left half done, without waiting for somebody to ask."""

    async def confirm() -> None:
        """Need no proof: nobody is served by this, and whoever follows is checked for itself."""

    for digest, origin in await store.partials():
        upstream = upstreams.get(origin.repository.upstream)
        if upstream is not None and downloads.find(digest) is None:
            downloads.start(digest, Source(repository=origin.repository, upstream=upstream, confirm=confirm))
