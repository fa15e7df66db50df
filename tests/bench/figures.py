"""What is measured, and in which unit; every figure is the median of its rounds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

HIGHER, LOWER = "higher", "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the table."""

    key: str
    title: str
    unit: str
    better: str = HIGHER


FIGURES = (
    Figure(key="digest", title="hot manifest by digest", unit="requests per CPU second"),
    Figure(key="digest_rate", title="hot manifest by digest", unit="requests per second"),
    Figure(key="tag", title="hot manifest by tag", unit="requests per CPU second"),
    Figure(key="tag_rate", title="hot manifest by tag", unit="requests per second"),
    Figure(key="small", title="hot image configuration", unit="requests per CPU second"),
    Figure(key="small_rate", title="hot image configuration", unit="requests per second"),
    Figure(key="blob4", title="hot blob, 4 clients", unit="MB per CPU second"),
    Figure(key="blob64", title="hot blob, 64 clients", unit="MB per CPU second"),
    Figure(key="blob4_rate", title="hot blob, 4 clients", unit="MB per second"),
    Figure(key="blob64_rate", title="hot blob, 64 clients", unit="MB per second"),
    Figure(key="blob4_all", title="hot blob, 4 clients", unit="MB per CPU second of server and clients"),
    Figure(key="blob64_all", title="hot blob, 64 clients", unit="MB per CPU second of server and clients"),
    Figure(key="cold", title="cold blob of 128 MB", unit="MB per second"),
    Figure(key="cold_cpu", title="cold blob of 128 MB", unit="MB per CPU second"),
    Figure(key="first_byte", title="cold blob, first byte", unit="ms", better=LOWER),
    Figure(key="crowd", title="16 clients, one cold blob of 128 MB", unit="s", better=LOWER),
    Figure(key="memory", title="resident memory at the end", unit="MB", better=LOWER),
)


@dataclass(slots=True)
class Results:
    """Samples by figure and server."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, server: str, value: float) -> None:
        """Take one sample."""
        self.samples[key][server].append(value)

    def median(self, key: str, server: str) -> float | None:
        """Return the median, if there is one."""
        values = self.samples.get(key, {}).get(server)
        return statistics.median(values) if values else None

    def ratio(self, figure: Figure, server: str, peer: str) -> float | None:
        """Return how many times better a server is than another."""
        mine, other = self.median(figure.key, server), self.median(figure.key, peer)
        if not mine or not other:
            return None
        return mine / other if figure.better == HIGHER else other / mine

    def servers(self, order: Iterable[str]) -> list[str]:
        """Return those of which there is a sample, in this order."""
        return [name for name in order if any(name in by_server for by_server in self.samples.values())]
