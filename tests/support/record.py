"""What was asked of a server, and what it sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from multidict import CIMultiDict


@dataclass(slots=True, kw_only=True)
class Recorded:
    """One request; written down when it arrives, completed while it is answered.

    `kind` is one of ping, manifest, blob, tags, referrers, catalog, search, token, cdn, other. `bytes_sent` are the
    body bytes that the socket took. `status` is 0 until the answer starts. `held` says that a fault keeps it waiting.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    kind: str
    repository: str | None = None
    reference: str | None = None
    range: str | None = None
    status: int = 0
    bytes_sent: int = 0
    held: bool = False
    finished: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


_PLAIN = [item.name for item in fields(Recorded) if item.name not in {"headers", "query"}]


class Record:
    """The requests in the order of their arrival."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.version = 0  # of what `until` looks at
        self._changed = asyncio.Event()

    def add(self, recorded: Recorded) -> None:
        """Write a request down."""
        self.requests.append(recorded)
        self.notify()

    def notify(self) -> None:
        """Wake those who wait in `until`."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool], *, timeout_seconds: float = 10.0) -> None:
        """Wait until something about the requests is true; looked at whenever one arrives, is held or ends.

        Raises:
            TimeoutError: it did not become true in time.
        """
        async with asyncio.timeout(timeout_seconds):
            while not condition():
                await self._changed.wait()

    def select(self, **facts: object) -> list[Recorded]:
        """Return the requests whose attributes have these values."""
        return select(self.requests, **facts)

    def clear(self) -> None:
        """Forget every request."""
        self.requests.clear()


def select(requests: list[Recorded], **facts: object) -> list[Recorded]:
    """Return the requests whose attributes have these values; None is "any"."""
    wanted = [(name, value) for name, value in facts.items() if value is not None]
    return [request for request in requests if all(getattr(request, name) == value for name, value in wanted)]


def sum_bytes(requests: list[Recorded], kind: str | None) -> int:
    """Add up body bytes; those of the CDN are blob bytes."""
    kinds = {"blob", "cdn"} if kind == "blob" else {kind}
    return sum(request.bytes_sent for request in requests if kind is None or request.kind in kinds)


def to_json(recorded: Recorded) -> dict[str, Any]:
    """Write a request for the control endpoint."""
    plain = {name: getattr(recorded, name) for name in _PLAIN}
    return plain | {"headers": list(recorded.headers.items()), "query": list(recorded.query.items())}


def from_json(value: Mapping[str, Any]) -> Recorded:
    """Read what `to_json` wrote."""
    headers = CIMultiDict((name, text) for name, text in value["headers"])
    return Recorded(**{**value, "headers": headers, "query": dict(value["query"])})
