"""How long a start takes, how long hits take, and how long the slowest request takes while a tenth is evicted."""

from __future__ import annotations

import http.client
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mirror.storage.files import Layout
from tests.scale.library import Library, Stored
from tests.support.mirrors import MirrorProcess
from tests.support.waiting import wait_until

_NOWHERE = {"docker.io": "http://127.0.0.1:9"}  # whatever is not answered from the cache fails
_PATIENCE_SECONDS = 120.0
_HOT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Of requests one after the other over one connection, in milliseconds."""

    number: int
    p50_ms: float
    p99_ms: float
    longest_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latencies:
        """Sum up."""
        ordered = sorted(seconds)
        return cls(
            number=len(ordered),
            p50_ms=statistics.median(ordered) * 1000,
            p99_ms=ordered[int(len(ordered) * 0.99)] * 1000,
            longest_ms=ordered[-1] * 1000,
        )


@contextmanager
def mirror_on(folder: Path, cache: Path, **settings: str) -> Iterator[MirrorProcess]:
    """Have a mirror of nothing on a cache that was made; it is not started yet, and is stopped in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f'{key} = "{value}"\n' for key, value in {"tag_ttl": "30d", "min_free": "0", **settings}.items())
    mirror = MirrorProcess(_NOWHERE, folder=folder, extra=f'[cache]\n{lines}[log]\nlevel = "warning"\n')
    if not mirror.cache_folder.exists():
        mirror.cache_folder.symlink_to(cache)
    try:
        yield mirror
    finally:
        mirror.__exit__()


class Client:
    """One connection that stays."""

    def __init__(self, mirror: MirrorProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", mirror.port, timeout=_PATIENCE_SECONDS)

    def get(self, one: Stored) -> tuple[float, bool]:
        """Ask for an object; return how long it took and whether it was stored.

        Raises:
            AssertionError: it came, and is not what it should be.
        """
        began = time.perf_counter()
        self._connection.request("GET", one.path, headers={"Accept": "*/*"})
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - began
        is_hit = answer.status == http.client.OK
        assert not is_hit or len(body) == one.size_bytes
        return seconds, is_hit

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def start_seconds(mirror: MirrorProcess, one: Stored) -> float:
    """Start, and return how long it took until an object had been answered, the program's own start included."""
    began = time.perf_counter()
    mirror.start()
    with closing(Client(mirror)) as client:
        _, is_hit = client.get(one)
    assert is_hit
    return time.perf_counter() - began


def hit_latencies(mirror: MirrorProcess, objects: Sequence[Stored], number: int) -> Latencies:
    """Ask for objects at random; all of them are hits."""
    chosen = random.Random(number).choices(objects, k=number)
    with closing(Client(mirror)) as client:
        found = [client.get(one) for one in chosen]
    assert all(is_hit for _, is_hit in found)
    return Latencies.of([seconds for seconds, _ in found])


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """What an eviction did, and how long requests took meanwhile."""

    objects: int
    seconds: float
    meanwhile: Latencies


def evict(mirror: MirrorProcess, library: Library, *, bound_bytes: int) -> Evicted:
    """Start with a bound that is below what is stored, and ask for what stays until nothing goes any more."""
    layout, before = Layout(mirror.cache_folder), len(library.blobs) + len(library.manifests)
    kept = [one for some in (library.manifests, library.blobs) for one in some[len(some) // 2 :]]
    random.Random(1).shuffle(kept)
    mirror.start()
    began, latencies = time.perf_counter(), list[float]()
    with closing(Client(mirror)) as client:
        while mirror.metric("mirror_cache_bytes") > bound_bytes - bound_bytes // 16:  # where an eviction ends
            assert time.perf_counter() - began < _PATIENCE_SECONDS, "the eviction did not end"
            for _ in range(100):
                seconds, is_hit = client.get(kept[len(latencies) % len(kept)])
                assert is_hit, "what was used last was evicted"
                latencies.append(seconds)
    seconds = time.perf_counter() - began
    left = sum(mirror.metric(f'mirror_cache_objects{{kind="{kind}"}}') for kind in ("blob", "manifest"))
    wait_until(lambda: sum(path.is_file() for path in layout.blobs.rglob("*")) == left)  # files go after their accounts
    return Evicted(objects=before - int(left), seconds=seconds, meanwhile=Latencies.of(latencies))
