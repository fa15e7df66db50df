"""Who may come in, where there are passwords: who has one, and who is in a network that needs none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import structlog

from mirror.concurrency.single_flight import SingleFlight
from mirror.errors import Unauthorized
from mirror.http.networks import any_of
from mirror.web.attempts import Attempts
from mirror.web.passwords import Passwords

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mirror.concurrency.supervisor import Supervisor
    from mirror.config import Config
    from mirror.http.networks import ClientNetwork
    from mirror.ports import Clock
    from mirror.web.clients import Client
    from mirror.web.htpasswd import Htpasswd

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pass:
    """What let a request in: a password, by the digest of its header, or with None the network that it came from."""

    user: str | None = None
    key: bytes | None = None


class Gate:
    """Lets requests in, or says what is missing."""

    def __init__(self, passwords: Passwords, networks: Iterable[ClientNetwork]) -> None:
        """Take the passwords, and the networks that need none."""
        self._passwords = passwords
        self.digest = passwords.digest
        self._is_anonymous = any_of(networks)
        self._has_warned = False

    @classmethod
    def of(cls, config: Config, htpasswd: Htpasswd | None, supervisor: Supervisor, clock: Clock) -> Self | None:
        """Return what the configuration asks for: None lets everybody in."""
        if htpasswd is None:
            return None
        _ = supervisor.start(htpasswd.follow(), name="follow htpasswd")
        flights: SingleFlight[bytes, str | None] = SingleFlight(supervisor, name="password")
        slots = max(1, len(os.sched_getaffinity(0)) // 2 // config.server.worker_count)
        passwords = Passwords(htpasswd, flights, Attempts(clock), clock, slots)
        return cls(passwords, config.access.anonymous_networks)

    async def admit(self, authorization: str | None, client: Client) -> Pass:
        """Return what lets a request in. From a network that needs no password, one that is sent is not looked at.

        Raises:
            Unauthorized: a password is missing or wrong.
            TooManyRequests: too many were wrong.
        """
        if self._is_anonymous(client.address):
            return Pass()
        if authorization is None:
            raise Unauthorized("this mirror wants a user name and a password: log in to it")
        key = self.digest(authorization.encode(errors="surrogateescape"))
        user = await self._passwords.check(key, authorization, client.address)
        if client.is_overheard and not self._has_warned:
            self._has_warned = True
            log.warning("access.password_unencrypted", client=client.address)
        return Pass(user, key)

    def still_admits(self, earlier: Pass | None, address: str) -> bool:
        """Tell whether the same request from this address would be let in now, as before, with nothing to check."""
        key = None if earlier is None else earlier.key
        if self._is_anonymous(address):
            return key is None
        return key is not None and self._passwords.recall(key) is not None
