"""``mirror serve``: reads the configuration, opens the port, runs one process or several."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from mirror import __version__
from mirror.cli import heap, systemd
from mirror.cli.client_config import ClientKind, url_of, written
from mirror.cli.options import add_config_option, load_config
from mirror.cli.reload import Settings
from mirror.cli.sockets import Listening
from mirror.concurrency.processes import WorkerProcesses
from mirror.concurrency.scratch import scratch_folder
from mirror.config import TcpAddress
from mirror.config.settings import DOCKER_HUB
from mirror.errors import MirrorError
from mirror.storage.files import Layout
from mirror.storage.leftovers import remove_temporary_files_of
from mirror.telemetry import logs, traces

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from mirror.cli.generations import Generations
    from mirror.config import Config
    from mirror.web.doors import Doors

log = structlog.get_logger(__name__)

_DRAIN_MARGIN_SECONDS = 5.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("serve", help="run the mirror")
    add_config_option(parser)
    parser.add_argument("--listen", action="append", metavar="ADDR", help="host:port or unix:/path; may be repeated")
    parser.add_argument("--cache-dir", metavar="DIR", help="where content is kept")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that share port and cache; 0: one a core")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; take a changed configuration up on SIGHUP.

    Raises:
        ConfigError: the configuration, or the certificate or passwords that it names, cannot be used.
        OSError: the port or the cache folder cannot.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # one that comes early waits until it is understood
    overrides = {
        "server.listen": options.listen,
        "server.workers": options.workers,
        "cache.dir": options.cache_dir,
    }
    settings = Settings(lambda: load_config(options, overrides))
    config = settings.config
    logs.configure(config.log)
    _allow_open_files()
    count = config.server.worker_count
    opening = Listening(
        config.server.listen,
        count,
        metrics=config.server.metrics_listen,
        control=config.control_socket,
        handed_over=systemd.take_sockets(os.environ),
    )
    with opening as listening, _shared_metrics(count):
        # only now: prometheus-client chooses, when it is imported, whether metrics are shared between processes
        with heap.importing():
            from mirror.app import prepare_store  # noqa: PLC0415 - see above

        prepare_store(config)
        _welcome(config, listening)
        log.info("server.started", version=__version__, workers=count, cache=str(config.cache.dir))
        heap.keep_small()
        if count == 1:
            asyncio.run(_serve(settings, listening.of_worker(0)))
            return 0
        return _run_workers(settings, listening, count)


async def _serve(settings: Settings, doors: Doors) -> None:
    from mirror.app import counting  # noqa: PLC0415 - see `run`
    from mirror.cli.generations import Generations  # noqa: PLC0415 - see `run`

    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, signals.put_nowait, signum)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    async with traces.tracing(os.environ) as tracer:
        with counting(tracer=tracer) as counters:
            async with Generations(doors, counters) as generations:
                await generations.begin(settings)
                systemd.say_ready()
                while await signals.get() is signal.SIGHUP:
                    systemd.say_reloading()
                    await _reload(settings, generations)
                    systemd.say_ready()
                systemd.say_stopping()
    log.info("server.stopped")


async def _reload(settings: Settings, generations: Generations) -> None:
    if await asyncio.to_thread(settings.reload):
        try:
            await generations.begin(settings)
        except (MirrorError, OSError) as error:
            settings.go_back()
            log.error("config.rejected", error=str(error))


def _run_workers(settings: Settings, listening: Listening, count: int) -> int:
    from prometheus_client import values  # noqa: PLC0415 - see `run`
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - see `run`

    def reload() -> bool:
        systemd.say_reloading()
        settings.settle()
        can_be_used = settings.reload()
        systemd.say_ready()
        return can_be_used

    def work(slot: int) -> None:
        os.environ.pop("NOTIFY_SOCKET", None)  # the supervisor speaks for all
        # files are named by slot, not by process: a worker that is replaced leaves none behind, and its figures go on
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
        listening.forget_all_but(slot)
        asyncio.run(_serve(settings, listening.of_worker(slot)))

    def died(slot: int, process: int) -> None:
        settings.settle()
        mark_process_dead(slot)  # type: ignore[no-untyped-call]
        remove_temporary_files_of(Layout(settings.config.cache.dir), process)

    def stop() -> None:
        systemd.say_stopping()
        listening.close()

    systemd.say_ready()  # the port is open; who connects now waits for a worker
    return WorkerProcesses(
        count,
        work,
        grace_seconds=settings.config.server.shutdown_grace_seconds + _DRAIN_MARGIN_SECONDS,
        stopping=stop,
        reloading=reload,
        died=died,
    ).run()


def _allow_open_files() -> None:
    """Have as many connections as the system allows: what it gives unasked, 1024 at most places, is for `select`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def _shared_metrics(count: int) -> Iterator[None]:
    """Give several workers a folder through which one scrape answers for all."""
    if count == 1:
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        yield
        return
    with scratch_folder("mirror-workers-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        yield


def _welcome(config: Config, listening: Listening) -> None:
    """Say on a terminal where the mirror is and how a Docker daemon uses it."""
    if not sys.stdout.isatty():
        return
    tcp = next((one for one in listening.addresses if isinstance(one, TcpAddress)), None)
    print(f"mirror {__version__}")
    print(f"  listening on  {', '.join(str(one) for one in listening.addresses)}")
    print(f"  caching in    {Path(config.cache.dir).resolve()}")
    if tcp is not None and DOCKER_HUB in config.upstreams:
        print("  to use it, put into /etc/docker/daemon.json and run `systemctl reload docker`:")
        print(textwrap.indent(written(ClientKind.DOCKER, url_of(tcp, config), config), "    "))
        print("  other clients: mirror client-config --help")
