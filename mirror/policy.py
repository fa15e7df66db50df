"""What to do about a tag, and about room: pure decisions on what is there, the settings and the time."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mirror.oci.descriptor import Descriptor

_ASKING_SECONDS: Final = 1.0
_SHORT_ASKING_SECONDS: Final = 0.25
_CRC_RANGE: Final = 2**32
_LEAST_STRETCH: Final = 2.0
_MOST_STRETCH: Final = 10.0
_SPREAD: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTag:
    """What a tag pointed at when the upstream last said so (``confirmed_at`` in seconds since the epoch)."""

    descriptor: Descriptor
    confirmed_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TagLifetime:
    """How long a tag is fresh, and for how long after that it may be served while the upstream cannot answer.

    Infinite where the upstream is never asked.
    ``spread`` is the share of the lifetime by which tags differ, so that they are not all asked about at once.
    """

    fresh_seconds: float
    stale_seconds: float
    spread: float = 0.0

    def fresh_seconds_of(self, key: str) -> float:
        """Return how long one tag is fresh: the same for the same key, and shorter for some than for others."""
        if not self.spread:
            return self.fresh_seconds
        return self.fresh_seconds * (1 - self.spread * zlib.crc32(key.encode()) / _CRC_RANGE)

    def stretched(self, reserve_left: float) -> TagLifetime:
        """Return the lifetime while only a reserve of the upstream's rate limit is left, from 1 (all of it) to 0.

        From twice as long to ten times, and never longer than a tag may be served at all.
        """
        factor = _LEAST_STRETCH + (_MOST_STRETCH - _LEAST_STRETCH) * (1 - reserve_left)
        longest_seconds = self.fresh_seconds + self.stale_seconds
        fresh_seconds = min(self.fresh_seconds * factor, longest_seconds)
        stale_seconds = longest_seconds - fresh_seconds
        return TagLifetime(fresh_seconds=fresh_seconds, stale_seconds=stale_seconds, spread=_SPREAD)


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer from the store; the upstream need not be asked for another ``ttl_seconds``, and never if that is None."""

    stored: StoredTag
    ttl_seconds: int | None


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


def asking_seconds(*, is_struggling: bool) -> float:
    """Return how much a cached pull may be slowed by asking its upstream; less where that has lately been silent."""
    return _SHORT_ASKING_SECONDS if is_struggling else _ASKING_SECONDS


def decide(stored: StoredTag | None, *, now: float, lifetime: TagLifetime, key: str = "") -> Decision:
    """Choose between the store and the upstream for one tag.

    A clock that was set back makes nothing fresh for longer than its lifetime. ``key`` tells the tag from others.

    Spec: https://www.rfc-editor.org/rfc/rfc9111.html#section-4.2
    """
    if stored is None:
        return Fetch()
    if lifetime.fresh_seconds == math.inf:  # whatever the clock says now, and said then
        return Serve(stored, None)
    fresh_seconds = lifetime.fresh_seconds_of(key)
    remaining_seconds = stored.confirmed_at + fresh_seconds - now
    if 0 < remaining_seconds <= fresh_seconds:
        return Serve(stored, int(remaining_seconds))
    stale_for_seconds = max(0, -int(remaining_seconds))
    longest_seconds = lifetime.fresh_seconds - fresh_seconds + lifetime.stale_seconds
    return Revalidate(stored, stale_for_seconds <= longest_seconds, stale_for_seconds)


class EvictionReason(StrEnum):
    """Why something was removed: a metric's label and a log's key."""

    SIZE = "size"
    SPACE = "space"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may be stored (0: as much as fits), and how much of the file system stays free."""

    max_size_bytes: int
    min_free_bytes: int


def room_to_make(
    bounds: Bounds, *, stored_bytes: int, free_bytes: int, expected_bytes: int, missing_bytes: int
) -> tuple[EvictionReason, int] | None:
    """Say how many bytes have to go, and why; None while all is well.

    It begins a little before a bound is reached and ends a little further below, so that room is made ahead of need
    and not at each blob. What is on its way counts too (``expected_bytes`` when it is whole, ``missing_bytes`` of that
    still to be written), so that room is made for it while it comes.
    """
    excess = excess_bytes(bounds, stored_bytes + expected_bytes)
    if excess:
        return EvictionReason.SIZE, excess
    lacking_bytes = bounds.min_free_bytes + missing_bytes - free_bytes
    if lacking_bytes > 0:
        return EvictionReason.SPACE, lacking_bytes + bounds.min_free_bytes // 16
    return None


def excess_bytes(bounds: Bounds, size_bytes: int) -> int:
    """Say how many of so many bytes have to go so that ``max_size`` is not reached; 0 while it is not near."""
    if not bounds.max_size_bytes or size_bytes <= bounds.max_size_bytes - bounds.max_size_bytes // 32:
        return 0
    return size_bytes - (bounds.max_size_bytes - bounds.max_size_bytes // 16)


def fits(bounds: Bounds, *, size_bytes: int, stored_bytes: int, free_bytes: int) -> bool:
    """Say whether a blob of this size can be stored at all, if everything else went for it."""
    if bounds.max_size_bytes and size_bytes > bounds.max_size_bytes:
        return False
    return size_bytes <= free_bytes + stored_bytes - bounds.min_free_bytes
