"""Putting the client of one upstream together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.upstream.auth import Authenticator
from mirror.upstream.client import RegistryClient
from mirror.upstream.endpoints import Endpoints
from mirror.upstream.probes import Prober
from mirror.upstream.standing import Standing
from mirror.upstream.transport import Transport

if TYPE_CHECKING:
    from mirror.concurrency.single_flight import SingleFlight
    from mirror.concurrency.supervisor import Supervisor
    from mirror.config import UpstreamConfig
    from mirror.credentials.sources import CredentialSource
    from mirror.policy import TagLifetime
    from mirror.ports import Clock, Locks, Memory, Notes, UpstreamObserver
    from mirror.upstream.sessions import Sessions
    from mirror.upstream.tokens import Token, TokenRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the clients of all upstreams use together."""

    supervisor: Supervisor
    tokens: Memory[Token]
    flights: SingleFlight[str, Token | TokenRefused]
    notes: Notes
    locks: Locks
    observer: UpstreamObserver
    clock: Clock


def make_client(
    config: UpstreamConfig, sessions: Sessions, source: CredentialSource, shared: Shared, *, tag_lifetime: TagLifetime
) -> RegistryClient:
    """Return the client of an upstream; it opens nothing by itself."""
    observer, clock = shared.observer, shared.clock
    standing = Standing(config.name, notes=shared.notes, locks=shared.locks, observer=observer, clock=clock)
    auth = Authenticator(config, sessions, source, standing, tokens=shared.tokens, flights=shared.flights, clock=clock)
    prober = Prober(config.name, sessions, shared.supervisor, observer=observer)
    endpoints = Endpoints(config.endpoints, read_timeout_seconds=config.read_timeout_seconds, fell=prober.watch)
    transport = Transport(config, sessions, auth, endpoints, observer=observer, clock=clock)
    return RegistryClient(config, transport, auth, endpoints, tag_lifetime=tag_lifetime, observer=observer, clock=clock)
