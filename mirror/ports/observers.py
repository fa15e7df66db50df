"""Who counts what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mirror.oci.requests import Kind


class DownloadObserver(Protocol):
    """Counts what becomes of downloads."""

    def fill_started(self) -> None:
        """One more in progress."""
        ...

    def fill_ended(self) -> None:
        """One fewer in progress."""
        ...

    def fill_unstored(self) -> None:
        """There was no room for one: it goes to its clients, and is not stored."""
        ...

    def fill_resumed(self, upstream: str) -> None:
        """A broken transfer went on where it stopped."""
        ...

    def digest_mismatched(self, upstream: str) -> None:
        """An upstream sent bytes that are not what was asked for."""
        ...


class DamageObserver(Protocol):
    """Counts what was found damaged in the store."""

    def blob_damaged(self) -> None:
        """A stored blob was not what it should be, and was removed."""
        ...


class UpstreamObserver(Protocol):
    """Counts what is asked of upstreams."""

    def upstream_answered(self, upstream: str, kind: Kind, method: str, code: str, seconds: float) -> None:
        """One request was answered, or failed (``code`` is then ``error``)."""
        ...

    def upstream_sent(self, upstream: str, kind: Kind, size_bytes: int) -> None:
        """Body bytes arrived."""
        ...

    def upstream_up(self, upstream: str, *, is_up: bool) -> None:
        """It is known whether the upstream answers."""
        ...

    def auth_failed(self, upstream: str) -> None:
        """A stored credential was refused."""
        ...

    def limit_seen(self, upstream: str, limit: int | None, remaining: int | None) -> None:
        """The upstream told its rate limit."""
        ...


class EvictionObserver(Protocol):
    """Counts what had to go."""

    def evicted(self, reason: str, objects: int, size_bytes: int) -> None:
        """So many objects of this size were removed."""
        ...
