"""Addresses of clients, and the networks that an operator names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self

UNIX: Final = "unix:"
"""How a client on a Unix socket is called, where others have an address."""

_MAPPED_BITS: Final = 96  # of ::ffff:0:0/96
_MOST_REMEMBERED: Final = 4096
_SITE_BITS: Final = 64  # what one IPv6 host has, often with as many addresses as it likes


@dataclass(frozen=True, slots=True)
class ClientNetwork:
    """A network, one address, or with None all clients on Unix sockets; ``in`` takes addresses of `plain_address`."""

    addresses: IPv4Network | IPv6Network | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``10.0.0.0/8``, ``fd00::1`` or ``unix:``.

        Raises:
            ValueError: it is none of these, or has bits set that belong to the host.
        """
        if text == UNIX:
            return cls(None)
        network = ip_network(text)
        mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
        if mapped is not None and network.prefixlen >= _MAPPED_BITS:
            network = IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
        return cls(network)

    def __contains__(self, address: str) -> bool:
        if self.addresses is None or address == UNIX:
            return self.addresses is None and address == UNIX
        return ip_address(address) in self.addresses


def any_of(networks: Iterable[ClientNetwork]) -> Callable[[str], bool]:
    """Return what tells whether one of the networks has an address; it remembers what it was asked."""
    known = tuple(networks)
    return lru_cache(_MOST_REMEMBERED)(lambda address: any(address in one for one in known))


def plain_address(text: str) -> str | None:
    """Return an address in the one way that it is written here, without port, brackets and zone.

    IPv4 within IPv6 becomes IPv4: a socket that takes both shows it so. None: the text is no address.
    """
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(found if mapped is None else mapped)


def site_of(address: str) -> str:
    """Return what one host has all of: its IPv4 address, or the first half of its IPv6 addresses."""
    found = None if address == UNIX else ip_address(address)
    if found is None or isinstance(found, IPv4Address):
        return address
    return str(IPv6Network((found, _SITE_BITS), strict=False))


def forwarded_address(peer: str, headers: Iterable[str], *, is_trusted: Callable[[str], bool]) -> str:
    """Return who sent a request that came from ``peer``, by its ``X-Forwarded-For`` headers.

    Each proxy appends whom it has it from. So they are read from the right, past those that are trusted: what stands
    left of the first that is not is what that one claims.
    """
    address = peer
    for text in reversed(",".join(headers).split(",")):
        if not is_trusted(address):
            break
        found = plain_address(text)
        if found is None:
            break
        address = found
    return address
