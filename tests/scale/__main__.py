"""``make scale``: prints its figures; exit code 1 if one of them is not what docs/performance.md promises."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.scale.library import Library, make_library
from tests.scale.measures import Latencies, evict, hit_latencies, mirror_on, start_seconds

_LONGEST_START_SECONDS = 1.0
_LONGEST_REQUEST_MS = 50.0
_SLOWER = 1.5  # times; what two runs on one machine differ by is in it
_STARTS = 5
_FEW = 10


def main() -> int:
    """Run."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="mirror-scale-"))
    try:
        problems = _measure(folder, options.objects, options.requests)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for problem in problems:
        print(f"WRONG     {problem}")
    return 1 if problems else 0


def _measure(folder: Path, objects: int, requests: int) -> list[str]:
    few, many = _make(folder / "few", _FEW), _make(folder / "many", objects)
    problems, p50_ms = [], {}
    for name, library in (("few", few), ("many", many)):
        with mirror_on(folder / name, folder / name / "made") as mirror:
            starts = []
            for _ in range(_STARTS):
                mirror.stop()
                starts.append(start_seconds(mirror, library.blobs[-1]))
            seconds = statistics.median(starts)
            each = ", ".join(f"{one:.2f}" for one in starts)
            print(f"{name}: start to first answered hit {seconds:.2f} s, the median of {each}", flush=True)
            if seconds > _LONGEST_START_SECONDS:
                problems.append(f"a start on {name} took {seconds:.2f} s")
            hot = library.blobs[-9:]
            for what, chosen in (("manifests", library.manifests[-1:]), ("blobs", hot), ("any blobs", library.blobs)):
                hit_latencies(mirror, chosen, requests // 10)
                found = hit_latencies(mirror, chosen, requests)
                p50_ms[name, what] = found.p50_ms
                print(f"{name}: hits, {what}: {_text(found)}", flush=True)
    problems += [
        f"hits of {what} are slower: {p50_ms['many', what]:.2f} ms, not {p50_ms['few', what]:.2f} ms"
        for what in ("manifests", "blobs")
        if p50_ms["many", what] > p50_ms["few", what] * _SLOWER
    ]
    bound = many.total_bytes * 9 // 10
    with mirror_on(folder / "evicting", folder / "many" / "made", max_size=f"{bound}B") as mirror:
        evicted = evict(mirror, many, bound_bytes=bound)
    meanwhile = _text(evicted.meanwhile)
    print(f"eviction of {evicted.objects} objects in {evicted.seconds:.1f} s, meanwhile: {meanwhile}", flush=True)
    if evicted.meanwhile.longest_ms > _LONGEST_REQUEST_MS:
        problems.append(f"a request took {evicted.meanwhile.longest_ms:.0f} ms during eviction")
    return problems


def _make(folder: Path, objects: int) -> Library:
    began = time.perf_counter()
    library = make_library(folder / "made", objects)
    os.sync()  # else the disk is at it still while the first requests are measured
    number = len(library.manifests) + len(library.blobs)
    print(f"{number} objects, {library.total_bytes} bytes, made in {time.perf_counter() - began:.0f} s", flush=True)
    return library


def _text(latencies: Latencies) -> str:
    return (
        f"{latencies.number} requests, p50 {latencies.p50_ms:.2f} ms, p99 {latencies.p99_ms:.2f} ms, "
        f"longest {latencies.longest_ms:.1f} ms"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make scale")
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--requests", type=int, default=5000, help="of each kind")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
