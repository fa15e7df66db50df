"""What the mirror has done and is doing, as values: of one worker, of all, of today and of its whole life."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from mirror.http.cache_status import Outcome
from mirror.oci.requests import Kind
from mirror.ports import UpstreamState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mirror.ports import Totals

PULLED_KINDS = frozenset({Kind.BLOB, Kind.MANIFEST})
FROM_STORE = frozenset({Outcome.HIT, Outcome.REVALIDATED, Outcome.STALE})
FROM_UPSTREAM = frozenset({Outcome.MISS, Outcome.COALESCED})
GENERATION_BITS = (
    16  # of a worker's number, below its process: it is told anew when a changed configuration is taken up
)
_TRANSFERS_HOLD_SECONDS = 5.0
_STATES_HOLD_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """When a server was started, whichever worker answers, and when it last took a configuration up, if it has."""

    started: float
    reloaded: float | None = None


@dataclass(slots=True, kw_only=True)
class Traffic:
    """Manifests and blobs that clients asked for in some time; the same as the dashboard's hit rates and bytes.

    ``requests`` were answered from the store (``hits``) or through a fetch; ``failures`` are apart from them.
    """

    requests: int = 0
    hits: int = 0
    failures: int = 0
    sent_bytes: int = 0
    hit_bytes: int = 0
    fetched_bytes: int = 0

    @property
    def saved_bytes(self) -> int:
        """What clients got and no upstream had to send."""
        return max(0, self.sent_bytes - self.fetched_bytes)

    @property
    def hit_rate(self) -> float | None:
        """Which part of the requests was answered from the store; None without any."""
        return self.hits / self.requests if self.requests else None

    def add(self, more: Traffic) -> None:
        """Add what was counted elsewhere."""
        for name in TRAFFIC_FIELDS:
            setattr(self, name, getattr(self, name) + getattr(more, name))

    def to_json(self) -> dict[str, Any]:
        """Return it with what follows from it."""
        return {**asdict(self), "saved_bytes": self.saved_bytes, "hit_rate": self.hit_rate}


TRAFFIC_FIELDS = tuple(one.name for one in fields(Traffic))


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The traffic of a minute, an hour or a day that began at ``start`` (since the epoch)."""

    start: float
    traffic: Traffic


@dataclass(slots=True, kw_only=True)
class Pulls:
    """How often a manifest of a repository was sent, and how many bytes of all that it holds."""

    repository: str
    pulls: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that an operator may want to know of: a warning or error of the log, or requests that failed."""

    level: str
    event: str
    facts: str
    times: int
    last_at: float


@dataclass(slots=True)
class Counted:
    """What one worker has counted since it last told."""

    traffic: Traffic = field(default_factory=Traffic)
    pulls: dict[str, Pulls] = field(default_factory=dict)
    problems: dict[tuple[str, str], Problem] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pulls or self.problems) or self.traffic != Traffic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A download in progress; ``size_bytes`` is None where the upstream does not tell."""

    digest: str
    repository: str
    size_bytes: int | None
    done_bytes: int
    followers: int
    bytes_per_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSight:
    """What a worker knows of an upstream, and since when: the last answer, and the last word on its limit."""

    state: UpstreamState
    up_at: float = 0.0
    limit_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What one worker is doing at a moment; its number holds its process, and how often that has begun anew."""

    worker: int
    at: float
    transfers: Sequence[Transfer] = ()
    upstreams: Sequence[UpstreamSight] = ()

    @property
    def process(self) -> int:
        """The number of its process."""
        return self.worker >> GENERATION_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What all workers have counted, over restarts; spans in order of time, those without traffic left out."""

    since: float
    life: Traffic
    today: Traffic
    minutes: Sequence[Span] = ()
    hours: Sequence[Span] = ()
    most_pulled: Sequence[Pulls] = ()
    problems: Sequence[Problem] = ()
    reports: Sequence[WorkerReport] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a repository holds in the store; what it shares with others counts for each."""

    repository: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The mirror at a glance; the page, ``/api/v1/overview`` and ``mirror status`` show this."""

    version: str
    at: float
    workers: int
    history: History
    totals: Totals
    limit_bytes: int
    transfers: Sequence[Transfer]
    upstreams: Sequence[UpstreamState]
    largest: Sequence[Size]

    def to_json(self) -> dict[str, Any]:
        """Return it as docs/metrics.md describes it."""
        history = self.history
        return {
            "version": self.version,
            "at": self.at,
            "workers": self.workers,
            "since": history.since,
            "life": history.life.to_json(),
            "today": history.today.to_json(),
            "minutes": [{"start": one.start, **one.traffic.to_json()} for one in history.minutes],
            "hours": [{"start": one.start, **one.traffic.to_json()} for one in history.hours],
            "stored": {
                "size_bytes": self.totals.size_bytes,
                "limit_bytes": self.limit_bytes,
                "objects": {kind.value: number for kind, number in self.totals.objects.items()},
            },
            "downloads": [asdict(one) for one in self.transfers],
            "upstreams": [asdict(one) for one in self.upstreams],
            "most_pulled": [asdict(one) for one in history.most_pulled],
            "largest": [asdict(one) for one in self.largest],
            "problems": [asdict(one) for one in history.problems],
        }


def merge_transfers(reports: Iterable[WorkerReport], now: float) -> list[Transfer]:
    """Return what the workers download now, the largest first; one that several of them follow is one."""
    merged: dict[str, Transfer] = {}
    for report in reports:
        if now - report.at > _TRANSFERS_HOLD_SECONDS:
            continue
        for one in report.transfers:
            known = merged.get(one.digest)
            merged[one.digest] = one if known is None else _join(known, one)
    return sorted(merged.values(), key=lambda one: (-(one.size_bytes or 0), one.digest))


def _join(one: Transfer, other: Transfer) -> Transfer:
    first = one if one.done_bytes >= other.done_bytes else other
    return replace(
        first,
        size_bytes=one.size_bytes if other.size_bytes is None else other.size_bytes,
        followers=one.followers + other.followers,
        bytes_per_second=max(one.bytes_per_second, other.bytes_per_second),
    )


def merge_upstreams(reports: Iterable[WorkerReport], now: float) -> list[UpstreamState]:
    """Return how things stand with each upstream: what the worker says that asked it last."""
    sights: dict[str, list[UpstreamSight]] = {}
    for report in reports:
        if now - report.at <= _STATES_HOLD_SECONDS:
            for one in report.upstreams:
                sights.setdefault(one.state.name, []).append(one)
    return [_merge_sights(of_one) for of_one in sights.values()]


def _merge_sights(sights: Sequence[UpstreamSight]) -> UpstreamState:
    answered = max(sights, key=lambda one: (one.up_at, one.state.is_up is not None)).state
    limited = max(sights, key=lambda one: one.limit_at).state
    return replace(
        max((one.state for one in sights), key=_news_of_credential),
        is_up=answered.is_up,
        limit=limited.limit,
        remaining=limited.remaining,
        wait_seconds=max(one.state.wait_seconds for one in sights),
    )


def _news_of_credential(state: UpstreamState) -> tuple[bool, bool]:
    """Order by how much a worker knows: that it is refused, that it was shown, that there is one."""
    return state.is_refused, not state.credential.endswith("not shown yet")


def live_workers(reports: Iterable[WorkerReport], now: float) -> int:
    """Return how many processes have told of themselves lately."""
    return len({report.process for report in reports if now - report.at <= _STATES_HOLD_SECONDS})


def read_report(document: Mapping[str, Any]) -> WorkerReport:
    """Read what ``asdict`` made of a report.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    return WorkerReport(
        worker=int(document["worker"]),
        at=float(document["at"]),
        transfers=[Transfer(**one) for one in document["transfers"]],
        upstreams=[
            UpstreamSight(
                state=UpstreamState(**one["state"]), up_at=float(one["up_at"]), limit_at=float(one["limit_at"])
            )
            for one in document["upstreams"]
        ],
    )
