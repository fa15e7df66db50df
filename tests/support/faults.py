"""What may go wrong with a registry, as values: a `Fault` says which requests it hits and what happens to them.

Faults are consulted in order. A request takes the first matching one of each family, so that bandwidth, wrong bytes and
a broken end can be combined, while two endings queue up: the second hits once the first is used up. A fault that
replaces the whole answer (family ``ANSWER``) ends the search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, ClassVar

HTML_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Please sign in</h1></body></html>"


class Family(Enum):
    """What part of an exchange an action changes."""

    ANSWER = auto()  # the whole answer; ends the search for faults
    HOLD = auto()  # when the answer starts
    CONTENT = auto()
    RANGE = auto()
    FRAMING = auto()
    DIGEST_HEADER = auto()
    TYPE_HEADER = auto()
    PACE = auto()
    ENDING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Answer with a status; without a body it is an error in the specification's JSON."""

    family: ClassVar[Family] = Family.ANSWER
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    code: str = "UNKNOWN"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseHead:
    """Answer HEAD with a status and no body, as Amazon's public registry does for blobs (401); leave GET alone."""

    family: ClassVar[Family] = Family.ANSWER
    status: int = 401


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Send the client elsewhere: to the registry's own CDN by a signed link, or to `to` with the path appended."""

    family: ClassVar[Family] = Family.ANSWER
    status: int = 307
    relative: bool = False
    to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Send nothing, headers included, until `release()` or until the client leaves; then answer."""

    family: ClassVar[Family] = Family.HOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipByte:
    """Serve the content with one byte changed; a negative position counts from the end."""

    family: ClassVar[Family] = Family.CONTENT
    position: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Serve other content, by default a sign-in page, with status 200 and the right digest header."""

    family: ClassVar[Family] = Family.CONTENT
    body: bytes = HTML_PAGE
    content_type: str | None = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gzip:
    """Compress with `Content-Encoding: gzip` when the client accepts it."""

    family: ClassVar[Family] = Family.CONTENT


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoreRange:
    """Answer 200 with the whole body to a request for a range."""

    family: ClassVar[Family] = Family.RANGE


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongContentRange:
    """Answer a range with the right bytes under this `Content-Range`; None leaves the header out."""

    family: ClassVar[Family] = Family.RANGE
    value: str | None = "bytes 0-0/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunked:
    """Leave `Content-Length` out; a body is framed in chunks."""

    family: ClassVar[Family] = Family.FRAMING


@dataclass(frozen=True, slots=True, kw_only=True)
class NoDigestHeader:
    """Leave `Docker-Content-Digest` out."""

    family: ClassVar[Family] = Family.DIGEST_HEADER


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentType:
    """Send another `Content-Type`; ``{}`` in it stands for the right one, so ``{}; charset=utf-8`` adds a parameter."""

    family: ClassVar[Family] = Family.TYPE_HEADER
    value: str = "{}; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """Take time: before the headers, for every second's worth of bytes, and between chunks."""

    family: ClassVar[Family] = Family.PACE
    bytes_per_second: float | None = None
    before_headers_seconds: float = 0.0
    between_chunks_seconds: float = 0.0
    chunk_bytes: int = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Close the connection, cleanly but short of `Content-Length`, after some bytes or a fraction of the body."""

    family: ClassVar[Family] = Family.ENDING
    after_bytes: int | None = None
    fraction: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Break the connection with RST after some bytes or a fraction of the body; with 0 bytes, before the headers."""

    family: ClassVar[Family] = Family.ENDING
    after_bytes: int | None = None
    fraction: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Stop after some bytes or a fraction of the body and hold the connection; `release()` sends the rest."""

    family: ClassVar[Family] = Family.ENDING
    after_bytes: int | None = None
    fraction: float = 0.5


Ending = Cut | Reset | Silence
Action = (
    Status
    | RefuseHead
    | Redirect
    | Hang
    | FlipByte
    | Replace
    | Gzip
    | IgnoreRange
    | WrongContentRange
    | Chunked
    | NoDigestHeader
    | ContentType
    | Slow
    | Cut
    | Reset
    | Silence
)
ACTIONS: Mapping[str, type[Action]] = {action.__name__: action for action in Action.__args__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a fault can tell requests apart by."""

    kind: str
    method: str
    path: str
    ranged: bool = False  # a range is asked for
    succeeds: bool = True  # without a fault the answer would be content


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An action and the requests it happens to: all that match, after the first `skip` and at most `times`."""

    action: Action
    kind: str | None = None
    method: str | None = None
    path: str = ""
    skip: int = 0
    times: int | None = None

    def matches(self, exchange: Exchange) -> bool:
        """Tell whether a request is one of those it is meant for, whatever `skip` and `times` say."""
        return (
            self.kind in {None, exchange.kind}
            and self.method in {None, exchange.method}
            and self.path in exchange.path
            and _concerns(self.action, exchange)
        )


def _concerns(action: Action, exchange: Exchange) -> bool:
    """Tell whether an action would change anything: one that would not is kept for a later request."""
    match action:
        case RefuseHead():
            return exchange.method == "HEAD"
        case Status() | Hang() | Slow():
            return True
        case Cut() | Reset() | Silence() | FlipByte():
            return exchange.succeeds and exchange.method == "GET"
        case IgnoreRange() | WrongContentRange():
            return exchange.succeeds and exchange.ranged
        case _:
            return exchange.succeeds


class FaultList:
    """The faults that are set, and how many requests each has met."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults: list[Fault] = list(faults)
        self._met: list[int] = [0] * len(self._faults)

    def add(self, *faults: Fault) -> None:
        """Set more faults, consulted after those already set."""
        self._faults.extend(faults)
        self._met.extend(0 for _ in faults)

    def clear(self) -> None:
        """Heal everything for the requests to come."""
        self._faults.clear()
        self._met.clear()

    def take(self, exchange: Exchange) -> Mapping[Family, Action]:
        """Return what happens to this request, one action a family, and count it."""
        taken: dict[Family, Action] = {}
        for number, fault in enumerate(self._faults):
            family = fault.action.family
            is_taken = family in taken or (family is Family.ANSWER and not _SPOILED.isdisjoint(taken))
            if is_taken or not fault.matches(exchange) or not self._hits(number, fault):
                continue
            taken[family] = fault.action
            if family is Family.ANSWER:
                break
        return taken

    def _hits(self, number: int, fault: Fault) -> bool:
        met = self._met[number]
        if fault.times is not None and met >= fault.skip + fault.times:
            return False
        self._met[number] = met + 1
        return met >= fault.skip


_SPOILED = {Family.CONTENT, Family.ENDING}


def to_json(fault: Fault) -> dict[str, Any]:
    """Write a fault for the control endpoint; bytes travel as Latin-1 text."""
    action = {name: _plain(value) for name, value in dataclasses.asdict(fault.action).items()}
    matcher = {name: getattr(fault, name) for name in ("kind", "method", "path", "skip", "times")}
    return {"action": type(fault.action).__name__, "settings": action, **matcher}


def from_json(value: Mapping[str, Any]) -> Fault:
    """Read what `to_json` wrote.

    Raises:
        KeyError: there is no such action.
        TypeError: the action or the matcher has no such setting.
    """
    matcher = dict(value)
    kind = ACTIONS[matcher.pop("action")]
    settings = dict(matcher.pop("settings", {}))
    if isinstance(settings.get("body"), str):
        settings["body"] = settings["body"].encode("latin-1")
    return Fault(action=kind(**settings), **matcher)


def _plain(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else value
