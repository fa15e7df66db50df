"""Who may be sent a credential: GHSA-3p65-76g6-3w7r."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mirror.upstream.realms import may_be_asked, may_get_credential

HUB = "https://registry-1.docker.io"


@pytest.mark.parametrize(
    ("realm", "registry"),
    [
        ("https://auth.docker.io/token", HUB),
        ("https://registry-1.docker.io:8443/token", HUB),
        ("https://gitlab.example.co.uk/jwt/auth", "https://registry.example.co.uk"),
        ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000"),
        ("https://ghcr.io/token", "https://ghcr.io"),
    ],
)
def test_the_registry_s_own_services_get_it(realm: str, registry: str) -> None:
    assert may_get_credential(URL(realm), URL(registry), ())


@pytest.mark.parametrize(
    ("realm", "registry"),
    [
        ("http://auth.docker.io/token", HUB),  # a secret in the clear
        ("https://auth.docker.io.example.net/token", HUB),
        ("https://evil.example/token", HUB),
        ("https://other.co.uk/token", "https://registry.example.co.uk"),
        ("https://mine.github.io/token", "https://yours.github.io"),  # a public suffix of its own
        ("https://10.0.0.2/token", "https://10.0.0.1"),
        ("https://localhost/token", "https://registry"),
        ("ftp://registry-1.docker.io/token", HUB),
        ("https:///token", HUB),
    ],
)
def test_others_do_not(realm: str, registry: str) -> None:
    assert not may_get_credential(URL(realm), URL(registry), ())


def test_the_operator_may_name_more() -> None:
    realm, registry = URL("https://gitlab.example/jwt/auth"), URL("https://registry.example.net")
    assert not may_get_credential(realm, registry, ())
    assert may_get_credential(realm, registry, ("gitlab.example",))
    assert not may_get_credential(URL("http://gitlab.example/jwt/auth"), registry, ("gitlab.example",))


def test_a_token_is_asked_for_in_the_clear_only_by_a_registry_in_the_clear() -> None:
    assert may_be_asked(URL("http://tokens.example/"), URL("http://registry.example"))
    assert not may_be_asked(URL("http://tokens.example/"), URL("https://registry.example"))


hosts = st.from_regex(r"[a-z]{1,8}(\.[a-z]{2,8}){0,3}", fullmatch=True)


@given(realm=hosts, registry=hosts)
def test_hosts_without_a_common_name_share_nothing(realm: str, registry: str) -> None:
    if may_get_credential(URL(f"https://{realm}/"), URL(f"https://{registry}/"), ()):
        assert realm == registry or realm.split(".")[-2:] == registry.split(".")[-2:]
