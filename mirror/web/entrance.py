"""What every connection and every request meets first: who is there, and may they come in?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mirror.web.clients import Clients
from mirror.web.gate import Gate
from mirror.web.in_flight import InFlight

if TYPE_CHECKING:
    from mirror.concurrency.supervisor import Supervisor
    from mirror.config import Config
    from mirror.ports import Clock
    from mirror.web.htpasswd import Htpasswd


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """One for all addresses that a worker listens on; without a gate, everybody may come in."""

    clients: Clients
    in_flight: InFlight
    gate: Gate | None

    @classmethod
    def of(cls, config: Config, htpasswd: Htpasswd | None, supervisor: Supervisor, clock: Clock) -> Self:
        """Return what the configuration asks for."""
        return cls(
            clients=Clients(config.access.trusted_proxies),
            in_flight=InFlight(config.server.max_connections_per_address),
            gate=Gate.of(config, htpasswd, supervisor, clock),
        )
