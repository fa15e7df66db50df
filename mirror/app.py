"""The composition root: configuration in, one running mirror out; lifetimes end in the reverse order."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from mirror.concurrency.single_flight import SingleFlight
from mirror.concurrency.supervisor import Supervisor
from mirror.control.assembly import ServerParts, of_server
from mirror.credentials.sources import POLL_SECONDS, CredentialSources
from mirror.engine.access import Access
from mirror.engine.blobs import Blobs
from mirror.engine.doubts import Doubts
from mirror.engine.downloads import Downloads
from mirror.engine.eviction import Eviction
from mirror.engine.largest import LargestRepositories
from mirror.engine.lists import Lists
from mirror.engine.manifests import Manifests
from mirror.engine.overview import Reporter
from mirror.engine.pull import PullThrough
from mirror.engine.refusals import Refusals
from mirror.engine.removals import Removals
from mirror.engine.small_blobs import SmallBlobs
from mirror.engine.source import Source
from mirror.engine.tags import Tags
from mirror.engine.upkeep import Upkeep
from mirror.engine.usage import Usage
from mirror.engine.verification import Verification
from mirror.errors import MirrorError
from mirror.figures import Since
from mirror.policy import Bounds, TagLifetime
from mirror.ports import UNTRACED
from mirror.storage.blobs import FileBlobStore
from mirror.storage.figures import FiguresFile
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from mirror.storage.locks import FileLocks
from mirror.storage.memory import HotValues
from mirror.storage.records import LinkRecords
from mirror.storage.sizes import RepositorySizes
from mirror.storage.traced_index import TracedIndex
from mirror.storage.walking import StoredFiles
from mirror.telemetry import logs
from mirror.telemetry.metrics import Metrics, render
from mirror.telemetry.observers import RequestObservers, UpstreamObservers
from mirror.telemetry.tally import Tally
from mirror.upstream.addresses import is_public
from mirror.upstream.assembly import Shared, make_client
from mirror.upstream.offline import OfflineUpstream
from mirror.upstream.sessions import Sessions
from mirror.web.admin import AdminHandler
from mirror.web.control import CONTROL_GRACE_SECONDS, ControlHandler, control_server
from mirror.web.entrance import Entrance
from mirror.web.hot import HotRequests
from mirror.web.listening import Servers
from mirror.web.ops import OPS_PATHS, PROBES, OpsHandlers
from mirror.web.pull import PullHandlers
from mirror.web.routes import Router
from mirror.web.server import Handler, HttpServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.config import Config, ServerConfig, UpstreamConfig
    from mirror.ports import Clock, Tracer, Upstream
    from mirror.upstream.addresses import AddressRule
    from mirror.web.doors import Doors
    from mirror.web.htpasswd import Htpasswd
    from mirror.web.tls import ServerTls

log = structlog.get_logger(__name__)

_SWEEP_SECONDS = 3600.0
_HOT_MANIFEST_BYTES = 32 * 1024 * 1024
_HOT_BLOB_BYTES = 16 * 1024 * 1024
_HOT_LIST_BYTES = 8 * 1024 * 1024
_HOT_ENTRIES = 50_000
_TOKENS = 10_000
_LONGEST_USER_TIMEOUT_MILLISECONDS = 2**31 - 1


def prepare_store(config: Config) -> None:
    """Make the cache folder and clear what killed processes left; once, before any worker runs.

    Raises:
        OSError: the folder cannot be made.
    """
    layout = Layout(config.cache.dir)
    layout.create()
    door = layout.find_open_door()
    if door is not None:
        log.warning("cache.unsafe", cache=str(layout.root), reason=door)
    FileBlobStore(layout).clean()


@dataclass(frozen=True, slots=True)
class Counters:
    """What counts for as long as the process lives, by whatever configuration it serves."""

    metrics: Metrics
    tally: Tally
    tracer: Tracer = UNTRACED


@contextmanager
def counting(clock: Clock = time.time, tracer: Tracer = UNTRACED) -> Iterator[Counters]:
    """Count, and trace, while the block runs; once in a process."""
    counters = Counters(Metrics(CollectorRegistry()), Tally(clock), tracer)
    with logs.heard_by(counters.tally.note_problem):
        yield counters


@asynccontextmanager
async def running(
    config: Config,
    doors: Doors,
    counters: Counters,
    *,
    tls: ServerTls | None = None,
    htpasswd: Htpasswd | None = None,
    since: Since | None = None,
    clock: Clock = time.time,
    is_public: AddressRule = is_public,
) -> AsyncIterator[Servers]:
    """Serve on listening sockets while the block runs; then let running transfers end within the configured grace.

    With ``tls`` it is HTTPS on all but Unix sockets; with ``htpasswd``, who comes in needs a password.
    """
    metrics, tally, tracer = counters.metrics, counters.tally, counters.tracer
    metrics.begin(config.upstreams)
    layout = Layout(config.cache.dir)
    async with AsyncExitStack() as stack:
        index = await asyncio.to_thread(_open_index, layout.index, clock, tracer)
        stack.push_async_callback(asyncio.to_thread, index.close)
        figures = await asyncio.to_thread(FiguresFile, layout.figures, clock())
        stack.push_async_callback(asyncio.to_thread, figures.close)
        locks = FileLocks(layout.locks)
        stack.callback(locks.close)
        supervisor = Supervisor(expected=MirrorError)
        store = FileBlobStore(layout)
        sources = await asyncio.to_thread(CredentialSources, config, clock)
        shared = Shared(
            supervisor=supervisor,
            tokens=HotValues(limit=_TOKENS),
            flights=SingleFlight(supervisor, name="token"),
            notes=index,
            locks=locks,
            observer=UpstreamObservers(metrics, tally),
            clock=clock,
        )
        upstreams = await _open_upstreams(config, stack, sources, shared, is_public, tracer)
        await stack.enter_async_context(supervisor)  # after the sessions: downloads are ended before their connections
        usage = Usage()
        eviction = Eviction(
            bounds=Bounds(max_size_bytes=config.cache.max_size_bytes, min_free_bytes=config.cache.min_free_bytes),
            accounts=index,
            shelves=store,
            locks=locks,
            usage=usage,
            observer=metrics,
        )
        downloads = Downloads(store, eviction, supervisor, metrics, tracer)
        negative_ttl_seconds = 0.0 if config.cache.offline else config.cache.negative_ttl_seconds  # an import ends it
        refusals = Refusals(HotValues(limit=_HOT_ENTRIES), clock, ttl_seconds=negative_ttl_seconds)
        doubts = Doubts(store, supervisor, metrics)
        pull = _pull_through(store, index, locks, supervisor, downloads, refusals, usage, doubts, clock)
        eviction.tell(pull)
        await eviction.measure()
        stack.push_async_callback(eviction.write_usage)

        reporter = Reporter(
            counter=tally,
            figures=figures,
            largest=LargestRepositories(RepositorySizes(layout.ledger), supervisor),
            downloads=downloads,
            upstreams=upstreams.values(),
            totals=index.totals,
            limit_bytes=config.cache.max_size_bytes,
            clock=clock,
        )
        stack.push_async_callback(reporter.end)
        _ = supervisor.start(reporter.run(), name="tell figures")
        observers = RequestObservers(metrics, tally)
        entrance = Entrance.of(config, htpasswd, supervisor, clock)
        scrape = functools.partial(_scrape, metrics.registry, index, limit_bytes=config.cache.max_size_bytes)
        ops = OpsHandlers(eviction, scrape, reporter.overview)
        hot = HotRequests(pull, observers, entrance.gate, tracer)
        await stack.enter_async_context(_forgetting(index, pull, supervisor))
        control = ControlHandler(
            of_server(
                ServerParts(
                    config=config,
                    since=since or Since(started=clock()),
                    index=index,
                    store=store,
                    held_off=eviction.held_off,
                    memory=pull,
                    overview=reporter.overview,
                    pull=pull,
                    upstreams=upstreams,
                )
            )
        )
        handler = Handler(
            PullHandlers(_router(config, upstreams), pull),
            ops,
            entrance,
            hot,
            observers,
            ops_paths=PROBES if doors.metrics else OPS_PATHS,
            admin=await asyncio.to_thread(AdminHandler.of, config.access, control),
            tracer=tracer,
        )
        servers = Servers()
        stack.push_async_callback(servers.end)
        await _listen_for_commands(servers, doors, control)
        await _listen(servers, handler, doors.pulls, config.server, supervisor, tls)
        watching = Handler(None, ops, entrance, hot, observers)
        await _listen(servers, watching, doors.metrics, config.server, supervisor, None)
        if tls is not None:
            _ = supervisor.start(tls.follow(), name="follow certificate")
        _look_after(config, supervisor, eviction, layout, index, store, locks, pull, doubts, clock)
        _ = supervisor.start(_tidy_up(store, downloads, upstreams, clock), name="tidy up")
        _ = supervisor.start(_watch(sources, refusals), name="watch credentials")
        yield servers


@asynccontextmanager
async def _forgetting(index: DiskIndex, pull: PullThrough, supervisor: Supervisor) -> AsyncIterator[None]:
    """Forget what other processes take out while the block runs."""
    removals = Removals(index, pull)
    await removals.begin()
    _ = supervisor.start(removals.run(), name="follow removals")
    try:
        yield
    finally:
        await removals.end()


async def _scrape(registry: CollectorRegistry, index: DiskIndex, *, limit_bytes: int) -> bytes:
    totals = await index.totals()
    shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return await asyncio.to_thread(render, registry, shared_folder=shared, totals=totals, limit_bytes=limit_bytes)


def _router(config: Config, upstreams: Mapping[str, Upstream]) -> Router:
    return Router(
        upstreams,
        default=config.default_upstream.name,
        hostnames={host: one.name for one in config.upstreams.values() for host in one.hostnames},
        rules={one.name: one.rules for one in config.upstreams.values()},
    )


async def _listen_for_commands(servers: Servers, doors: Doors, handler: ControlHandler) -> None:
    if doors.control is not None:
        await servers.begin(control_server(handler), [doors.control], grace_seconds=CONTROL_GRACE_SECONDS)


async def _listen(
    servers: Servers,
    handler: Handler,
    sockets: Sequence[socket.socket],
    config: ServerConfig,
    supervisor: Supervisor,
    tls: ServerTls | None,
) -> None:
    for listening in sockets:
        _limit_sending(listening, config.send_timeout_seconds)
    server = HttpServer(handler)
    await servers.begin(
        server,
        sockets,
        grace_seconds=config.shutdown_grace_seconds,
        handshake_seconds=config.header_timeout_seconds,
        tls=tls,
    )
    late = server.end_late_connections(config.header_timeout_seconds)
    _ = supervisor.start(late, name="end late connections")


def _limit_sending(listening: socket.socket, seconds: float) -> None:
    """Let the kernel end connections whose reader takes nothing for so long; they inherit it from their listener."""
    if listening.family != socket.AF_UNIX:
        milliseconds = min(int(seconds * 1000), _LONGEST_USER_TIMEOUT_MILLISECONDS)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _open_index(folder: Path, clock: Clock, tracer: Tracer) -> DiskIndex:
    return DiskIndex(folder, clock) if tracer is UNTRACED else TracedIndex(folder, clock, tracer)


async def _open_upstreams(
    config: Config,
    stack: AsyncExitStack,
    sources: CredentialSources,
    shared: Shared,
    is_public: AddressRule,
    tracer: Tracer,
) -> Mapping[str, Upstream]:
    if config.cache.offline:
        return {name: OfflineUpstream(name) for name in config.upstreams}
    clients: dict[str, Upstream] = {}
    for name, one in config.upstreams.items():
        sessions = await stack.enter_async_context(Sessions(one, is_public=is_public, tracer=tracer))
        clients[name] = make_client(one, sessions, sources.of(one), shared, tag_lifetime=_lifetime(config, one))
    return clients


def _lifetime(config: Config, upstream: UpstreamConfig) -> TagLifetime:
    return TagLifetime(fresh_seconds=upstream.tag_ttl_seconds, stale_seconds=config.cache.stale_if_error_seconds)


def _pull_through(  # noqa: PLR0913, PLR0917 - the root hands on what it has made
    store: FileBlobStore,
    index: DiskIndex,
    locks: FileLocks,
    supervisor: Supervisor,
    downloads: Downloads,
    refusals: Refusals,
    usage: Usage,
    doubts: Doubts,
    clock: Clock,
) -> PullThrough:
    access = Access(index, clock)
    manifests = Manifests(
        store=store,
        index=index,
        memory=HotValues(limit=_HOT_MANIFEST_BYTES),
        locks=locks,
        flights=SingleFlight(supervisor, name="manifest"),
        refusals=refusals,
        access=access,
        usage=usage,
    )
    tags = Tags(
        index=index,
        memory=HotValues(limit=_HOT_ENTRIES),
        locks=locks,
        flights=SingleFlight(supervisor, name="tag"),
        manifests=manifests,
        refusals=refusals,
        access=access,
        clock=clock,
    )
    blobs = Blobs(
        stored=doubts,
        index=index,
        memory=HotValues(limit=_HOT_ENTRIES),
        small=SmallBlobs(HotValues(limit=_HOT_BLOB_BYTES)),
        downloads=downloads,
        flights=SingleFlight(supervisor, name="blob"),
        refusals=refusals,
        access=access,
        usage=usage,
    )
    return PullThrough(tags, manifests, blobs, Lists(index, HotValues(limit=_HOT_LIST_BYTES), clock))


def _look_after(  # noqa: PLR0913, PLR0917 - the root hands on what it has made
    config: Config,
    supervisor: Supervisor,
    eviction: Eviction,
    layout: Layout,
    index: DiskIndex,
    store: FileBlobStore,
    locks: FileLocks,
    pull: PullThrough,
    doubts: Doubts,
    clock: Clock,
) -> None:
    """Begin what keeps the cache within its bounds and goes through it behind the scenes."""
    _ = supervisor.start(eviction.run(), name="eviction")
    files = StoredFiles(layout)
    upkeep = Upkeep(
        records=LinkRecords(layout),
        accounts=index,
        files=files,
        store=store,
        notes=index,
        locks=locks,
        eviction=eviction,
        memory=pull,
    )
    _ = supervisor.start(upkeep.run(), name="upkeep")
    if config.cache.verify:
        verification = Verification(files=files, accounts=index, notes=index, locks=locks, doubts=doubts, clock=clock)
        _ = supervisor.start(verification.run(), name="verification")


async def _tidy_up(store: FileBlobStore, downloads: Downloads, upstreams: Mapping[str, Upstream], clock: Clock) -> None:
    """Deal with what killed processes have left, the worker before this one too, and what nobody goes on with."""
    await store.sweep(now=clock())
    await _resume(store, downloads, upstreams)
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        await store.sweep(now=clock())


async def _resume(store: FileBlobStore, downloads: Downloads, upstreams: Mapping[str, Upstream]) -> None:
    """Go on with what an earlier process left half done, without waiting for somebody to ask."""

    async def confirm() -> None:
        """Need no proof: nobody is served by this, and whoever follows is checked for itself."""

    for digest, origin in await store.partials():
        upstream = upstreams.get(origin.repository.upstream)
        if upstream is not None and not upstream.is_offline and downloads.find(digest) is None:
            downloads.start(digest, Source(repository=origin.repository, upstream=upstream, confirm=confirm))


async def _watch(sources: CredentialSources, refusals: Refusals) -> None:
    """Take up credentials that change on disk; what was refused without them is asked for anew."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        if await asyncio.to_thread(sources.poll):
            log.info("credentials.changed")
            refusals.forget_all()
