"""How often one place may try a password: some at once, then one in a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mirror.errors import TooManyRequests
from mirror.http.networks import site_of

if TYPE_CHECKING:
    from mirror.ports import Clock

_AT_ONCE: Final = 30
_REGAINED_SECONDS: Final = 6.0
_MOST_SITES: Final = 10_000


class Attempts:
    """Counts attempts by where they come from; an IPv6 host may have many addresses, and counts once."""

    def __init__(self, clock: Clock) -> None:
        """Start with all attempts for everybody."""
        self._clock = clock
        self._whole_at: dict[str, float] = {}  # when all attempts will have been regained

    def take(self, address: str) -> None:
        """Use one.

        Raises:
            TooManyRequests: none is left; the error says when one is again.
        """
        now, site = self._clock(), site_of(address)
        longest = _AT_ONCE * _REGAINED_SECONDS
        whole_at = min(max(self._whole_at.pop(site, now), now), now + longest) + _REGAINED_SECONDS
        over_seconds = whole_at - now - longest
        self._whole_at[site] = whole_at - _REGAINED_SECONDS if over_seconds > 0 else whole_at
        while len(self._whole_at) > _MOST_SITES:
            del self._whole_at[next(iter(self._whole_at))]
        if over_seconds > 0:
            raise TooManyRequests("too many wrong passwords from this address", retry_after_seconds=over_seconds)

    def give_back(self, address: str) -> None:
        """Take one back that turned out to be right."""
        site = site_of(address)
        if site in self._whole_at:
            self._whole_at[site] -= _REGAINED_SECONDS
