"""The measurements, each of which asks all servers in turn, round by round."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench import load, quota, usage
from tests.bench.figures import Results
from tests.bench.servers import Server, mirror, mirror_with_tls, nginx_before
from tests.support.faults import Fault, Slow
from tests.support.images import Blob, Image, blob
from tests.support.process import RegistryProcess

SMALL_CONNECTIONS = 16
_WORKERS_CONNECTIONS = 64
_SHARE_OF_A_CORE = 0.4
_LARGE_TIMES_AS_LONG = 3  # 64 connections share what the machine sends: in 3 s, none has had one blob whole
COLD_BYTES = 128_000_000
_LARGE_BYTES = 256_000_000


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
                results.add(f"{key}_rate", server.name, done.bytes / 1e6 / done.seconds)
                results.add(f"{key}_all", server.name, done.bytes / 1e6 / (used.cpu_seconds + done.cpu_seconds))


def cold(results: Results, servers: Sequence[Server], registry: RegistryProcess, upstream: Server, rounds: int) -> None:
    """Ask once for what no server has; the upstream itself is asked for the same."""
    for number in range(rounds):
        content = blob(COLD_BYTES, 100 + number)
        registry.add_blob("library/app", content)
        for server in (upstream, *servers):
            with usage.used_by(server.pids) as used:
                (transfer,) = load.fetch([server.url(f"blobs/{content.digest}")])
                usage.wait_until_idle(server.pids)
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
            usage.wait_until_idle(server.pids)


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
    """Compare one worker with two on hot manifests by digest.

    wrk takes its share of the same cores, so how much two workers bring on a small machine is how much it leaves them.
    So each worker may use no more than a part of a core, too, which leaves the load generator all that it needs.
    """
    with mirror(upstream, folder / "1", workers=1) as one, mirror(upstream, folder / "2", workers=2) as two:
        servers, path = (one, two), f"manifests/{image.digest}"
        load.fetch([server.url(path) for server in servers])
        free = _ask_in_turn(servers, path, seconds)
        try:
            with ExitStack() as stack:
                for pid in (*one.pids, *two.pids):
                    stack.enter_context(quota.limited(pid, _SHARE_OF_A_CORE))
                limited = _compare(_ask_in_turn(servers, path, seconds))
        except OSError as error:
            limited = f"not measured, as control groups cannot be made here ({error.strerror})"
    costs = [(used.cpu_seconds / done.requests, done.cpu_seconds / done.requests) for done, used in free[0]]
    ours, wrks = (statistics.median(some) for some in zip(*costs, strict=True))
    cores = os.cpu_count() or 1
    return (
        f"Hot manifests by digest, {_WORKERS_CONNECTIONS} connections, each worker held to {_SHARE_OF_A_CORE:.0%} of a"
        f" core, which leaves wrk the rest: {limited}. Without a limit: {_compare(free)}; a request costs the worker"
        f" {ours * 1e6:.0f} µs of CPU time and wrk {wrks * 1e6:.0f} µs, so that {cores} cores which do nothing else"
        f" answer at most {cores / (ours + wrks) / _rate(free[0]):.2f} times as many."
    )


Samples = Sequence[tuple[load.Load, usage.Usage]]


def _ask_in_turn(servers: Sequence[Server], path: str, seconds: int) -> Sequence[Samples]:
    rounds = [[_ask(server, server.url(path), seconds) for server in servers] for _ in range(3)]
    return list(zip(*rounds, strict=True))


def _compare(samples: Sequence[Samples]) -> str:
    one, two = map(_rate, samples)
    return f"{one:,.0f} requests per second with one worker, {two:,.0f} with two, {two / one:.2f} times as many"


def _rate(samples: Samples) -> float:
    return statistics.median(done.requests / done.seconds for done, _ in samples)


def _ask(server: Server, url: str, seconds: int) -> tuple[load.Load, usage.Usage]:
    with usage.used_by(server.pids) as used:
        done = load.ask_again_and_again(url, connections=_WORKERS_CONNECTIONS, seconds=seconds)
    return done, used


def memory(results: Results, servers: Sequence[Server]) -> None:
    """Look at what the servers hold."""
    for server in servers:
        results.add("memory", server.name, usage.resident_bytes(server.pids) / 1e6)
