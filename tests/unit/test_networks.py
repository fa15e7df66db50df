from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.http.networks import UNIX, ClientNetwork, any_of, forwarded_address, plain_address, site_of

PROXIES = [ClientNetwork.parse(text) for text in ("10.0.0.0/8", "fd00::/8", UNIX)]
is_proxy = any_of(PROXIES)


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
        ("0.0.0.0/0", "192.0.2.1", "2001:db8::1"),
        ("::/0", "2001:db8::1", "192.0.2.1"),
        ("fd00::/8", "fd12::1", "fe80::1"),
        ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.1"),
        ("::ffff:10.1.2.3", "10.1.2.3", "10.1.2.4"),
        (UNIX, UNIX, "127.0.0.1"),
        ("0.0.0.0/0", "127.0.0.1", UNIX),
    ],
)
def test_a_network_has_its_addresses_and_no_other(network: str, inside: str, outside: str) -> None:
    assert inside in ClientNetwork.parse(network)
    assert outside not in ClientNetwork.parse(network)


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "localhost", "unix:/run/x", "10.0.0.0 /8"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        ClientNetwork.parse(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:4711 ", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", None),
        ("unknown", None),
        ("unix:", None),
        ("_hidden", None),
        ("192.0.2.01", None),
        ("1.2.3.4, 5.6.7.8", None),
    ],
)
def test_an_address_is_written_in_one_way(text: str, address: str | None) -> None:
    assert plain_address(text) == address


def test_an_ipv6_host_is_one_site_whichever_of_its_addresses_it_uses() -> None:
    assert site_of("2001:db8::1") == site_of("2001:db8::ffff:1") != site_of("2001:db8:0:1::1")
    assert site_of("192.0.2.1") != site_of("192.0.2.2")
    assert site_of(UNIX) == UNIX


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        ("10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("192.0.2.9", ["10.0.0.7"], "192.0.2.9"),
        ("10.0.0.1", ["203.0.113.5, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.1", ["203.0.113.5, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        ("10.0.0.1", ["192.0.2.1", "10.0.0.2, fd00::2"], "192.0.2.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["192.0.2.1, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["unix:"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        (UNIX, ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("fd00::1", ["::ffff:192.0.2.1"], "192.0.2.1"),
    ],
    ids=lambda value: str(value) or "empty",
)
def test_a_client_behind_proxies_is_who_the_last_trusted_one_says(peer: str, headers: list[str], address: str) -> None:
    assert forwarded_address(peer, headers, is_trusted=is_proxy) == address


def test_a_peer_that_is_not_trusted_is_who_it_is_whatever_it_says() -> None:
    def trust_nobody(_: str) -> bool:
        return False

    assert forwarded_address("10.0.0.1", ["192.0.2.1"], is_trusted=trust_nobody) == "10.0.0.1"


@given(st.lists(st.text() | st.ip_addresses().map(str), max_size=5))
def test_whatever_a_client_writes_what_comes_out_is_an_address(headers: list[str]) -> None:
    found = forwarded_address("10.0.0.1", headers, is_trusted=is_proxy)
    assert plain_address(found) == found


@given(st.text() | st.ip_addresses().map(str))
def test_an_address_that_was_read_is_read_again_alike(text: str) -> None:
    address = plain_address(text)
    assert address is None or plain_address(address) == address
