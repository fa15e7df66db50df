"""Who may be sent an upstream's credential for a token: the realm is the upstream's word, and may be an attacker's.

Rule and reason: distribution's CVE-2026-33540 (GHSA-3p65-76g6-3w7r), where any realm got the configured password.
"""

from __future__ import annotations

import ipaddress
from functools import cache
from typing import TYPE_CHECKING

from publicsuffixlist import PublicSuffixList
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Collection


@cache
def _public_suffixes() -> PublicSuffixList:
    return PublicSuffixList()


def parse_realm(text: str) -> URL | None:
    """Read what a challenge calls its realm; None where that is no address with a host and nothing hidden in it."""
    try:
        url = URL(text)
    except ValueError:
        return None
    return url if url.host and url.user is None else None


def may_be_asked(realm: URL, registry: URL) -> bool:
    """Say whether a token may be asked for there at all: by http only for a registry that is itself on http."""
    return bool(realm.host) and (realm.scheme == "https" or (realm.scheme == "http" and registry.scheme == "http"))


def may_get_credential(realm: URL, registry: URL, token_hosts: Collection[str]) -> bool:
    """Say whether the realm is the registry's own: its host on any port, its registrable domain, or one allowed."""
    if not may_be_asked(realm, registry):
        return False
    if realm.host == registry.host or realm.host in token_hosts or realm.authority in token_hosts:
        return True
    domain = _registrable_domain(registry.host)
    return domain is not None and domain == _registrable_domain(realm.host)


def _registrable_domain(host: str | None) -> str | None:
    """Return the part of a name that somebody has registered; None for an address or a name without dots."""
    if host is None or "." not in host:
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        domain: str | None = _public_suffixes().privatesuffix(host.lower().rstrip("."))
        return domain
    return None
