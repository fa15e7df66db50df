"""Which addresses are anybody's to reach."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mirror.upstream import addresses
from mirror.upstream.addresses import Surroundings, is_public

INSIDE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",  # noqa: S104 - nothing is bound
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # the metadata of most clouds
    "100.100.100.200",  # Alibaba's
    "168.63.129.16",  # Azure's
    "192.0.0.192",  # Oracle's
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",  # Amazon's
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:db8::1",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]


@pytest.mark.parametrize("address", INSIDE)
def test_what_only_the_inside_can_reach_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_rest_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "0x7f.1", "1.1.1.1:80"])
def test_a_name_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        is_public(text)


@given(st.ip_addresses(v=4))
def test_an_address_is_no_better_for_being_carried_in_another(address: ipaddress.IPv4Address) -> None:
    carriers = [
        f"::ffff:{address}",
        f"64:ff9b::{address}",
        str(ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80))),
    ]
    assert {is_public(carrier) for carrier in carriers} == {is_public(str(address))}


class EverythingInside(AbstractResolver):
    """Knows every name, at an address of a private network."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [{"hostname": host, "host": "10.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        return


async def test_of_endless_names_only_so_many_are_remembered_and_the_others_count_as_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(addresses, "_MOST_NAMES", 3)
    surroundings = Surroundings(is_public, allowed=(), lookup=EverythingInside())
    names = [f"host{number}.test" for number in range(5)]
    for name in names * 2:
        await surroundings.resolve(name)
    assert [surroundings.is_inside(URL(f"http://{name}")) for name in names] == [True, True, True, False, False]
