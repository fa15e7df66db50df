"""Who sends a request: the other end of its connection, or whom a trusted proxy there names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from mirror.http.networks import UNIX, any_of, forwarded_address, plain_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

    from mirror.http.networks import ClientNetwork

_GONE: Final = "0.0.0.0"  # noqa: S104 - no address to listen on, but that of a client which has left already
_MOST_PEERS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Whose request it is, whether a trusted proxy says so, and whether somebody on its way could read along."""

    address: str
    is_forwarded: bool
    is_overheard: bool


class Clients:
    """Finds out who a client is; nothing that it says itself is believed."""

    def __init__(self, trusted_proxies: Iterable[ClientNetwork]) -> None:
        """Take whose word about others counts."""
        self.is_proxy = any_of(trusted_proxies)
        self.peer = lru_cache(_MOST_PEERS)(_peer)

    def of(self, request: web.BaseRequest) -> Client:
        """Return who sends a request."""
        peer = self.peer(request.remote)
        if not self.is_proxy(peer):
            return Client(address=peer, is_forwarded=False, is_overheard=not (request.secure or _is_this_machine(peer)))
        address = forwarded_address(peer, request.headers.getall("X-Forwarded-For", ()), is_trusted=self.is_proxy)
        is_secure = request.headers.get("X-Forwarded-Proto", request.scheme).strip().lower() == "https"
        is_forwarded = not self.is_proxy(address)
        return Client(
            address=address, is_forwarded=is_forwarded, is_overheard=not (is_secure or _is_this_machine(address))
        )


def _peer(remote: str | None) -> str:
    """Return the address of a connection's other end, as aiohttp gives it: a Unix socket's is empty, or a path."""
    return _GONE if remote is None else plain_address(remote) or UNIX


def _is_this_machine(address: str) -> bool:
    return address == UNIX or ip_address(address).is_loopback
