"""Names of repositories, and what is named inside them.

Grammar: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mirror.errors import NameInvalid, ReferenceInvalid, quote
from mirror.oci.digest import Digest

NAME_LIMIT: Final = 255
"""Characters in a repository name; the usual clients take no more."""

_SEGMENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def is_tag(text: str) -> bool:
    """Tell whether text is one that the grammar of tags allows."""
    return _TAG.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Tag:
    """A pointer for people, which may move; always valid.

    Raises:
        ReferenceInvalid: text that the grammar of tags does not allow.
    """

    name: str

    def __post_init__(self) -> None:
        """Refuse whatever is not a tag."""
        if not is_tag(self.name):
            raise ReferenceInvalid(f"{quote(self.name)} is not a tag: up to 128 letters, digits, '_', '.' and '-'")

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Read a tag.

        Raises:
            ReferenceInvalid: text that the grammar of tags does not allow.
        """
        return cls(text)

    def __str__(self) -> str:
        """Write the tag."""
        return self.name


Reference = Tag | Digest
"""What names a manifest inside a repository."""


def parse_reference(text: str) -> Reference:
    """Read a tag or a digest; no tag has a colon, and every digest has one.

    Raises:
        DigestInvalid: text with a colon that is not a digest.
        ReferenceInvalid: text without one that is not a tag.
    """
    return Digest.parse(text) if ":" in text else Tag(text)


def parse_repository_name(text: str) -> str:
    """Return a repository's name as it was given.

    Raises:
        NameInvalid: text that the grammar does not allow, or that is longer than `NAME_LIMIT`.
    """
    if len(text) > NAME_LIMIT:
        raise NameInvalid(f"{quote(text)} is longer than {NAME_LIMIT} characters")
    if _NAME.fullmatch(text) is None:
        raise NameInvalid(
            f"{quote(text)} is not a repository name: lower-case letters and digits, joined by '.', '_', '-', '/'"
        )
    return text


@dataclass(frozen=True, slots=True)
class Repository:
    """A scope inside one upstream: its configured name, and the full name there (``library/alpine``); always valid.

    Raises:
        NameInvalid: a name that the grammar does not allow.
    """

    upstream: str
    name: str

    def __post_init__(self) -> None:
        """Refuse whatever is not a repository name."""
        parse_repository_name(self.name)

    @classmethod
    def parse(cls, text: str) -> Repository:
        """Read what `str` has written.

        Raises:
            NameInvalid: it is something else.
        """
        upstream, _, name = text.partition("/")
        return cls(upstream, name)

    def __str__(self) -> str:
        """Write ``docker.io/library/alpine``."""
        return f"{self.upstream}/{self.name}"
