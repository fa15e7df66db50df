"""Passwords that clients send: checked in a thread by bcrypt, which is slow on purpose, and remembered for a minute.

A password is remembered by a keyed hash of the header that it came in, whose key is made at the start: what is in
memory helps nobody to guess it.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeVar

from mirror.errors import TooManyRequests, Unauthorized
from mirror.http.basic import parse_basic

if TYPE_CHECKING:
    from mirror.concurrency.single_flight import SingleFlight
    from mirror.ports import Clock
    from mirror.web.attempts import Attempts
    from mirror.web.htpasswd import Htpasswd, Users

V = TypeVar("V")
_REMEMBERED_SECONDS: Final = 60.0
_MOST_REMEMBERED: Final = 10_000
_MOST_CHECKS: Final = 128  # under way, nearly all of them waiting
_BUSY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Accepted:
    user: str
    hashed: bytes
    checked_at: float


class Passwords:
    """Checks each password once a minute, however many requests bring it at once."""

    def __init__(
        self, htpasswd: Htpasswd, flights: SingleFlight[bytes, str | None], attempts: Attempts, clock: Clock, slots: int
    ) -> None:
        """Join the parts; at most ``slots`` passwords that nobody has had right before are checked at a time."""
        self._htpasswd = htpasswd
        self._flights = flights
        self._attempts = attempts
        self._clock = clock
        self._slots = asyncio.Semaphore(slots)
        self._slots_of_known = asyncio.Semaphore(1)  # so that who has come before does not wait behind who guesses
        self._key = os.urandom(32)
        self._accepted: dict[bytes, _Accepted] = {}
        self._refused: dict[bytes, Users] = {}

    def digest(self, secret: bytes) -> bytes:
        """Return what something that holds a password is remembered by."""
        return blake2b(secret, key=self._key, digest_size=16).digest()

    def recall(self, key: bytes) -> str | None:
        """Return the user of an ``Authorization`` header that was found right within the last minute."""
        known = self._accepted.get(key)
        if (
            known is not None
            and 0 <= self._clock() - known.checked_at < _REMEMBERED_SECONDS
            and self._htpasswd.users.has(known.user, known.hashed)
        ):
            return known.user
        return None

    async def check(self, key: bytes, authorization: str, address: str) -> str:
        """Return the user of a header, ``key`` being its digest.

        Raises:
            Unauthorized: name or password is wrong, or it is something else than Basic.
            TooManyRequests: there were too many wrong ones from this address, or from everywhere.
        """
        user = self.recall(key)
        if user is None:
            user = await self._check_anew(key, authorization, address)
        if user is None:
            raise Unauthorized("the user name or the password for this mirror is wrong")
        return user

    async def _check_anew(self, key: bytes, authorization: str, address: str) -> str | None:
        credential = parse_basic(authorization)
        if credential is None or self._refused.get(key) is self._htpasswd.users:
            return None
        if key not in self._flights and key not in self._accepted:  # no await from here to the start of the flight
            if len(self._flights) >= _MOST_CHECKS:
                raise TooManyRequests("too many passwords are being checked", retry_after_seconds=_BUSY_SECONDS)
            self._attempts.take(address)
        user, _ = await self._flights.run(key, partial(self._verify, key, *credential, address))
        return user

    async def _verify(self, key: bytes, user: str, password: bytes, address: str) -> str | None:
        was_accepted = key in self._accepted
        async with self._slots_of_known if was_accepted else self._slots:
            users = self._htpasswd.users
            hashed = await asyncio.to_thread(users.verify, user, password)
        self._accepted.pop(key, None)
        if hashed is None:
            _remember(self._refused, key, users)
            return None
        _remember(self._accepted, key, _Accepted(user, hashed, self._clock()))
        if not was_accepted:
            self._attempts.give_back(address)
        return user


def _remember(values: dict[bytes, V], key: bytes, value: V) -> None:
    values[key] = value
    while len(values) > _MOST_REMEMBERED:
        del values[next(iter(values))]
