"""What to do about one tag: pure decisions on what is stored, the settings and the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.oci.descriptor import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTag:
    """What a tag pointed at when the upstream last said so (``confirmed_at`` in seconds since the epoch)."""

    descriptor: Descriptor
    confirmed_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TagLifetime:
    """How long a tag is fresh, and for how long after that it may be served while the upstream cannot answer."""

    fresh_seconds: float
    stale_seconds: float


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer from the store; the upstream need not be asked for another ``ttl_seconds``."""

    stored: StoredTag
    ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Revalidate:
    """Ask the upstream whether the tag still points there; ``may_serve_stale`` if it cannot answer."""

    stored: StoredTag
    may_serve_stale: bool
    stale_for_seconds: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Nothing is stored: ask the upstream."""


Decision = Serve | Revalidate | Fetch


def decide(stored: StoredTag | None, *, now: float, lifetime: TagLifetime) -> Decision:
    """Choose between the store and the upstream for one tag.

    A clock that was set back makes nothing fresh for longer than its lifetime.

    Spec: https://www.rfc-editor.org/rfc/rfc9111.html#section-4.2
    """
    if stored is None:
        return Fetch()
    remaining_seconds = stored.confirmed_at + lifetime.fresh_seconds - now
    if 0 < remaining_seconds <= lifetime.fresh_seconds:
        return Serve(stored, int(remaining_seconds))
    stale_for_seconds = max(0, -int(remaining_seconds))
    return Revalidate(stored, stale_for_seconds <= lifetime.stale_seconds, stale_for_seconds)
