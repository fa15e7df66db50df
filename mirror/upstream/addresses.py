"""Where an upstream may lead: one that is out in the world must not make the mirror ask what only the inside can reach.

Redirects and token realms are an upstream's word. From a public address they lead to public addresses only; an upstream
that is itself inside may lead anywhere, as a company's registry leads to its object store. The address is looked at
when the socket for it is made, so that no name can mean one address when it is checked and another when it is used.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

if TYPE_CHECKING:
    from yarl import URL

    from mirror.config import Network

AddressRule = Callable[[str], bool]
"""Tells whether an address is public; a ValueError for text that is no address."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_MORE_INSIDE: Final = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's services for the virtual machine that asks
    ipaddress.ip_network("192.0.0.0/24"),  # Oracle's, and left out of `is_global` by some versions of Python
    ipaddress.ip_network("64:ff9b:1::/48"),
)


class AddressRefused(PermissionError):
    """An upstream leads to an address that it must not lead to."""

    def __init__(self) -> None:
        """Say the same of every address: aiohttp keeps the type only of errors that are alike."""
        super().__init__(errno.EACCES, "not a public address")


def is_public(text: str) -> bool:
    """Tell whether an address is anybody's to reach: not of a host itself, a private network, a link or a group."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        carried = _carried(address)
        if carried is not None:
            return is_public(str(carried))
    return address.is_global and not address.is_multicast and not any(address in network for network in _MORE_INSIDE)


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that a packet to this one ends at: mapped, by NAT64, or by 6to4."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


_MOST_NAMES = 10_000  # that redirects may lead to; what is not remembered counts as public, and leads to nothing inside


class Surroundings(AbstractResolver):
    """What is known of where the hosts are that the configuration leads to; resolves their names."""

    def __init__(self, rule: AddressRule, *, allowed: Collection[Network], lookup: AbstractResolver) -> None:
        """Take what makes an address public, which others may be led to, and who looks names up."""
        self._is_public = rule
        self._allowed = allowed
        self._lookup = lookup
        self._names: dict[str, bool] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look a name up. What was public once counts as public for good: its owner may change it at will."""
        found = await self._lookup.resolve(host, port, family)
        is_inside = not any(self._is_public(one["host"]) for one in found)
        if host in self._names or len(self._names) < _MOST_NAMES:
            self._names[host] = is_inside and self._names.get(host, True)
        return found

    async def close(self) -> None:
        """Close what looks names up."""
        await self._lookup.close()

    def is_inside(self, origin: URL) -> bool:
        """Tell whether a host that was connected to is at no public address."""
        host = origin.raw_host or ""
        try:
            return not self._is_public(host)
        except ValueError:  # a name
            return self._names.get(host, False)

    def make_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Return a socket for an address that a public host has led to.

        Raises:
            AddressRefused: the address is not public, and not allowed.
        """
        family, kind, protocol, _, (host, *_) = address_info
        if not (self._is_public(host) or any(ipaddress.ip_address(host) in network for network in self._allowed)):
            raise AddressRefused
        return socket.socket(family, kind, protocol)
