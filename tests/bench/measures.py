"""The measurements, each of which asks all servers in turn, round by round."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import load, usage
from tests.bench.figures import Results
from tests.bench.servers import Server, mirror, mirror_with_tls, nginx_before
from tests.support.faults import Fault, Slow
from tests.support.images import Blob, Image, blob
from tests.support.process import RegistryProcess

SMALL_CONNECTIONS = 16
_WORKERS_CONNECTIONS = 64
_LARGE_TIMES_AS_LONG = 3  # 64 connections share what the machine sends: in 3 s, none has had one blob whole
COLD_BYTES = 128_000_000
_LARGE_BYTES = 256_000_000
_SETTLED_SECONDS = 0.3


def hot(results: Results, servers: Sequence[Server], image: Image, big: Blob, *, rounds: int, seconds: int) -> None:
    """Ask again and again for what every server has."""
    manifest, by_tag, content = f"manifests/{image.digest}", "manifests/1", f"blobs/{big.digest}"
    small = f"blobs/{image.config.digest}"
    for server in servers:
        load.fetch([server.url(by_tag), server.url(manifest), server.url(content), server.url(small)])
    for _ in range(rounds):
        for server in servers:
            for key, path in (("digest", manifest), ("tag", by_tag), ("small", small)):
                with usage.used_by(server.pids) as used:
                    done = load.ask_again_and_again(server.url(path), connections=SMALL_CONNECTIONS, seconds=seconds)
                results.add(key, server.name, done.requests / used.cpu_seconds)
                results.add(f"{key}_rate", server.name, done.requests / done.seconds)
            for key, connections in (("blob4", 4), ("blob64", 64)):
                with usage.used_by(server.pids) as used:
                    done = load.ask_again_and_again(
                        server.url(content), connections=connections, seconds=_LARGE_TIMES_AS_LONG * seconds
                    )
                results.add(key, server.name, done.bytes / 1e6 / used.cpu_seconds)
                results.add(f"{key}_all", server.name, done.bytes / 1e6 / (used.cpu_seconds + done.cpu_seconds))


def cold(results: Results, servers: Sequence[Server], registry: RegistryProcess, upstream: Server, rounds: int) -> None:
    """Ask once for what no server has; the upstream itself is asked for the same."""
    for number in range(rounds):
        content = blob(COLD_BYTES, 100 + number)
        registry.add_blob("library/app", content)
        for server in (upstream, *servers):
            with usage.used_by(server.pids) as used:
                (transfer,) = load.fetch([server.url(f"blobs/{content.digest}")])
                time.sleep(_SETTLED_SECONDS)  # what it does after the last byte belongs to it
            results.add("cold", server.name, transfer.size_bytes / 1e6 / transfer.seconds)
            results.add("cold_cpu", server.name, transfer.size_bytes / 1e6 / used.cpu_seconds)
            results.add("first_byte", server.name, transfer.first_byte_seconds * 1000)


def crowd(
    results: Results, servers: Sequence[Server], registry: RegistryProcess, limit: Server, stored: Blob, rounds: int
) -> None:
    """Let 16 clients ask at once for a blob that no server has; ``limit`` has ``stored``, as large, on its disk."""
    for number in range(rounds):
        content = blob(COLD_BYTES, 200 + number)
        registry.add_blob("library/app", content)
        for server, asked in (*((server, content) for server in servers), (limit, stored)):
            url = server.url(f"blobs/{asked.digest}")
            started = time.perf_counter()
            load.fetch_by_many([[url] * 8] * 2, at_once=8)
            results.add("crowd", server.name, time.perf_counter() - started)


def fleet(server: Server, registry: RegistryProcess, image: Image) -> str:
    """Let 500 clients pull one cold image at once; say what came of it."""
    registry.add("library/app", "fleet", image)
    registry.reset_record()
    usage.forget_peak(server.pids)
    urls = [server.url("manifests/fleet"), server.url(f"manifests/{image.digest}")]
    urls += [server.url(f"blobs/{part.digest}") for part in image.blobs]
    started = time.perf_counter()
    transfers = load.fetch_by_many([urls * 250] * 2, at_once=250)
    seconds = time.perf_counter() - started
    fetched = [request for request in registry.requests if request.method == "GET"]
    peak = usage.resident_bytes(server.pids, peak=True) / 1e6
    total = sum(transfer.size_bytes for transfer in transfers) / 1e6
    return (
        f"500 clients pulled one cold image at once ({len(image.layers)} layers, {total:,.0f} MB in all) in"
        f" {seconds:.1f} s: {len(transfers)} answers, none failed; the upstream was asked for"
        f" {len(fetched)} things; at most {peak:.0f} MB were resident."
    )


def slow_upstream(upstream: RegistryProcess, folder: Path, rounds: int) -> str:
    """Fetch a blob of 256 MB from an upstream that gives each connection 20 MB/s, with the mirror and without."""
    upstream.fail(Fault(action=Slow(bytes_per_second=20_000_000), kind="blob"))
    direct: list[float] = []
    mirrored: list[float] = []
    for number in range(rounds):
        content = blob(_LARGE_BYTES, 300 + number)
        upstream.add_blob("library/app", content)
        path = f"v2/library/app/blobs/{content.digest}"
        with mirror(upstream.base_url, folder / f"slow{number}") as server:
            for base_url, times in ((upstream.base_url, direct), (server.base_url, mirrored)):
                (transfer,) = load.fetch([f"{base_url}/{path}"])
                times.append(transfer.seconds)
    upstream.heal()
    before, after = statistics.median(direct), statistics.median(mirrored)
    return (
        f"A cold blob of 256 MB from an upstream that gives each connection 20 MB/s took {before:.1f} s directly and"
        f" {after:.1f} s through the mirror, {after / before:.2f} of that."
    )


def tls(plain: Server, upstream: str, folder: Path, image: Image, big: Blob, *, seconds: int) -> str:
    """Speak TLS, the mirror by itself and nginx before it, and see what is left of a CPU second."""
    manifest, content = f"manifests/{image.digest}", f"blobs/{big.digest}"
    texts = []
    with nginx_before(plain, folder) as front, mirror_with_tls(upstream, folder) as own:
        load.fetch([own.url(manifest), own.url(content)], insecure=True)
        for title, path, connections, is_new in (
            ("manifests", manifest, 16, False),
            ("manifests, each on a connection of its own,", manifest, 16, True),
            ("MB of a blob", content, 4, False),
        ):
            samples: list[list[float]] = [[], [], []]
            for _ in range(3):
                for one, values in zip((plain, own, front), samples, strict=True):
                    with usage.used_by(one.pids) as used:
                        done = load.ask_again_and_again(
                            one.url(path), connections=connections, seconds=seconds, each_on_its_own=is_new
                        )
                    values.append((done.requests if path == manifest else done.bytes / 1e6) / used.cpu_seconds)
            first, second, third = (f"{statistics.median(values):,.0f}" for values in samples)
            texts.append(f"{title} {first}, {second} and {third}")
    told = "; ".join(texts)
    return f"HTTP, the mirror's own HTTPS, and nginx with HTTPS before it, for each CPU second of all of them: {told}."


def workers(upstream: str, folder: Path, image: Image, *, seconds: int) -> str:
    """Compare one worker with two on hot manifests by digest: as the machine likes, and all of them on one core.

    wrk takes its share of the same cores, so that the rate says little; what two cost each other shows where they share
    a core and wrk has the other.
    """
    rates, on_one_core, costs = [], [], []
    for count in (1, 2):
        with mirror(upstream, folder / str(count), workers=count) as server:
            url = server.url(f"manifests/{image.digest}")
            load.fetch([url])
            free = [_ask(server, url, seconds) for _ in range(3)]
            for pid in server.pids:
                os.sched_setaffinity(pid, {0})
            pinned = [_ask(server, url, seconds, core=1) for _ in range(3)]
        rates.append(statistics.median(done.requests / done.seconds for done, _ in free))
        costs.append([statistics.median(one) for one in zip(*(_cost(*sample) for sample in free), strict=True)])
        on_one_core.append(statistics.median(done.requests / used.cpu_seconds for done, used in pinned))
    ours, wrks = costs[0]
    most = min(2.0, 2 / (ours + wrks) / rates[0])
    return (
        f"Hot manifests by digest, {_WORKERS_CONNECTIONS} connections: {rates[0]:,.0f} requests per second with one"
        f" worker, {rates[1]:,.0f} with two, {rates[1] / rates[0]:.2f} times as many. With one worker, a request cost"
        f" {ours * 1e6:.0f} µs of CPU time in the worker and {wrks * 1e6:.0f} µs in wrk, so that two cores which do"
        f" nothing else cannot answer more than {most:.2f} times as many. With wrk on a core of its own and all workers"
        f" on the other: {on_one_core[0]:,.0f} requests per CPU second of one worker, {on_one_core[1]:,.0f} of two."
    )


def _cost(done: load.Load, used: usage.Usage) -> tuple[float, float]:
    """Return the CPU seconds that a request took of the server and of wrk."""
    return used.cpu_seconds / done.requests, done.cpu_seconds / done.requests


def _ask(server: Server, url: str, seconds: int, *, core: int | None = None) -> tuple[load.Load, usage.Usage]:
    with usage.used_by(server.pids) as used:
        done = load.ask_again_and_again(url, connections=_WORKERS_CONNECTIONS, seconds=seconds, core=core)
    return done, used


def memory(results: Results, servers: Sequence[Server]) -> None:
    """Look at what the servers hold."""
    for server in servers:
        results.add("memory", server.name, usage.resident_bytes(server.pids) / 1e6)
