"""The measurements, each of which asks all servers in turn, round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench import load, usage
from tests.bench.figures import Results
from tests.bench.servers import Server, mirror, nginx_before
from tests.support.faults import Fault, Slow
from tests.support.images import Blob, Image, blob
from tests.support.process import RegistryProcess

MANIFEST_CONNECTIONS = 16
COLD_BYTES = 128_000_000
_LARGE_BYTES = 256_000_000
_SETTLED_SECONDS = 0.3


def hot(results: Results, servers: Sequence[Server], image: Image, big: Blob, *, rounds: int, seconds: int) -> None:
    """Ask again and again for what every server has."""
    manifest, by_tag, content = f"manifests/{image.digest}", "manifests/1", f"blobs/{big.digest}"
    for server in servers:
        load.fetch([server.url(by_tag), server.url(manifest), server.url(content)])
    for _ in range(rounds):
        for server in servers:
            for key, path in (("digest", manifest), ("tag", by_tag)):
                with usage.used_by(server.pids) as used:
                    done = load.ask_again_and_again(server.url(path), connections=MANIFEST_CONNECTIONS, seconds=seconds)
                results.add(key, server.name, done.requests / used.cpu_seconds)
                results.add(f"{key}_rate", server.name, done.requests / done.seconds)
            for key, connections in (("blob4", 4), ("blob64", 64)):
                with usage.used_by(server.pids) as used:
                    done = load.ask_again_and_again(server.url(content), connections=connections, seconds=seconds)
                results.add(key, server.name, done.bytes / 1e6 / used.cpu_seconds)


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


def crowd(results: Results, servers: Sequence[Server], registry: RegistryProcess, rounds: int) -> None:
    """Let 16 clients ask at once for a blob that no server has."""
    for number in range(rounds):
        content = blob(COLD_BYTES, 200 + number)
        registry.add_blob("library/app", content)
        for server in servers:
            url = server.url(f"blobs/{content.digest}")
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


def tls(server: Server, folder: Path, image: Image, big: Blob, *, seconds: int) -> str:
    """Put nginx with TLS before a server, and see what both together do for a CPU second."""
    texts = []
    with nginx_before(server, folder) as front:
        for path, connections, unit in (
            (f"manifests/{image.digest}", 16, "requests"),
            (f"blobs/{big.digest}", 4, "MB"),
        ):
            values = []
            for one in (server, front):
                with usage.used_by(one.pids) as used:
                    done = load.ask_again_and_again(one.url(path), connections=connections, seconds=seconds)
                values.append((done.requests if unit == "requests" else done.bytes / 1e6) / used.cpu_seconds)
            texts.append(f"{values[1]:,.0f} instead of {values[0]:,.0f} {unit}")
    return f"With nginx speaking TLS before the mirror, both together did {' and '.join(texts)} per CPU second."


def workers(upstream: str, folder: Path, image: Image, *, seconds: int) -> str:
    """Compare one worker with two, on hot manifests by digest; wrk takes its share of the same cores."""
    rates, per_cpu = [], []
    for count in (1, 2):
        with mirror(upstream, folder / str(count), workers=count) as server:
            url = server.url(f"manifests/{image.digest}")
            load.fetch([url])
            samples = []
            for _ in range(3):
                with usage.used_by(server.pids) as used:
                    done = load.ask_again_and_again(url, connections=64, seconds=seconds)
                samples.append((done.requests / done.seconds, done.requests / used.cpu_seconds))
        rates.append(statistics.median(rate for rate, _ in samples))
        per_cpu.append(statistics.median(rate for _, rate in samples))
    return (
        f"Hot manifests by digest, 64 connections: {rates[0]:,.0f} requests per second with one worker,"
        f" {rates[1]:,.0f} with two ({rates[1] / rates[0]:.2f} times), with wrk on the same cores; per CPU second of"
        f" the workers {per_cpu[0]:,.0f} and {per_cpu[1]:,.0f}."
    )


def memory(results: Results, servers: Sequence[Server]) -> None:
    """Look at what the servers hold."""
    for server in servers:
        results.add("memory", server.name, usage.resident_bytes(server.pids) / 1e6)
