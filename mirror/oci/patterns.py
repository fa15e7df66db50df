"""Patterns over repository names, for what an operator allows and denies.

``*`` stands for any characters of one segment, ``**`` for any characters of any number of them: ``team/*`` is every
repository right below ``team``, ``team/**`` every one below it, and ``**/secret`` each that ends so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from mirror.errors import Denied, NameInvalid, quote
from mirror.oci.reference import Repository

_WRITTEN: Final = re.compile(r"[a-z0-9._*-]+(?:/[a-z0-9._*-]+)*")
_WILDCARD: Final = re.compile(r"(\*+)")
_LENGTH_LIMIT: Final = 255


@dataclass(frozen=True, slots=True)
class RepositoryPattern:
    """One pattern; equal to another that is written alike."""

    text: str
    _matcher: re.Pattern[str] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern.

        Raises:
            NameInvalid: no repository's name could match it.
        """
        if _WRITTEN.fullmatch(text) is None or len(text) > _LENGTH_LIMIT:
            raise NameInvalid(f"{quote(text)} is no pattern of repository names")
        return cls(text, re.compile("".join(map(_translate, _WILDCARD.split(text)))))

    def __str__(self) -> str:
        return self.text

    def matches(self, name: str) -> bool:
        """Tell whether a repository's whole name, ``library/`` included, is one of those."""
        return self._matcher.fullmatch(name) is not None


def _translate(part: str) -> str:
    if not part.startswith("*"):
        return re.escape(part)
    return "[^/]*" if part == "*" else ".*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which repositories of an upstream are served: those that are allowed (all, where nothing is) and not denied."""

    allow: Sequence[RepositoryPattern] = ()
    deny: Sequence[RepositoryPattern] = ()

    def permit(self, name: str) -> bool:
        """Tell whether a repository may be served at all."""
        if any(pattern.matches(name) for pattern in self.deny):
            return False
        return not self.allow or any(pattern.matches(name) for pattern in self.allow)

    def check(self, repository: Repository) -> None:
        """Refuse a repository that may not be served.

        Raises:
            Denied: it may not.
        """
        if not self.permit(repository.name):
            raise Denied(f"this mirror is configured not to serve {repository.name} of {repository.upstream}")
