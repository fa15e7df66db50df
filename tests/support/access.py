"""Who may pull what, and the gates that ask for it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tests.support.record import Recorded
from tests.support.replies import Reply, error_reply


@dataclass(slots=True, kw_only=True)
class Access:
    """Users with their passwords, and private repositories with those who may pull them; change it at any time.

    Most public registries answer for a repository that there is not as for one that may not be seen: with `exists` set,
    nobody may pull what does not exist.
    """

    users: dict[str, str] = field(default_factory=dict)
    private: dict[str, set[str]] = field(default_factory=dict)
    exists: Callable[[str], bool] | None = None

    def knows(self, user: str, password: str) -> bool:
        """Whether this is a user with the right password."""
        return self.users.get(user) == password

    def allows(self, user: str | None, repository: str) -> bool:
        """Whether a user, or anybody (None), may pull a repository."""
        if self.exists is not None and not self.exists(repository):
            return False
        return repository not in self.private or user in self.private[repository]


class Gate(Protocol):
    """Decides who is let in."""

    def check(self, recorded: Recorded) -> Reply | None:
        """Return the refusal of a request, or None; writes the user into the record's facts."""
        ...


class BasicGate:
    """Wants a name and password for everything, as a registry with htpasswd does."""

    def __init__(self, access: Access, *, challenge: str = 'Basic realm="test registry"') -> None:
        self.access = access
        self.challenge = challenge

    def check(self, recorded: Recorded) -> Reply | None:
        """Refuse who has no right password, and private repositories to others."""
        credential = read_basic(recorded.headers)
        if credential is None or not self.access.knows(*credential):
            refused = error_reply(401, "UNAUTHORIZED", "authentication required")
            refused.headers["WWW-Authenticate"] = self.challenge
            return refused
        recorded.facts["user"] = user = credential[0]
        if recorded.repository is not None and not self.access.allows(user, recorded.repository):
            return error_reply(403, "DENIED", "requested access to the resource is denied")
        return None


def read_basic(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Return name and password of a Basic ``Authorization``."""
    scheme, _, encoded = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user, password
