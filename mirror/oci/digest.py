"""Content addresses."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from mirror.errors import DigestInvalid, quote


class Hasher(Protocol):
    """A running hash, as hashlib makes them; large updates release the interpreter lock."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take the next bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the hash of all bytes so far, as lower-case hex."""
        ...


_HASHERS: Final[dict[str, Callable[[], Hasher]]] = {
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
_ENCODED: Final = {
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "sha384": re.compile(r"[0-9a-f]{96}"),
    "sha512": re.compile(r"[0-9a-f]{128}"),
}


@dataclass(frozen=True, slots=True)
class Digest:
    """A content address, always valid: safe as part of a path, of a URL and of a header.

    Raises:
        DigestInvalid: unknown algorithm, or hex of the wrong length or case.

    Spec: https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#digests
    """

    algorithm: str
    encoded: str

    def __post_init__(self) -> None:
        """Refuse whatever is not a registered algorithm with its own number of lower-case hex digits."""
        pattern = _ENCODED.get(self.algorithm)
        if pattern is None:
            raise DigestInvalid(f"unknown digest algorithm {quote(self.algorithm)}; known are {', '.join(_ENCODED)}")
        if pattern.fullmatch(self.encoded) is None:
            raise DigestInvalid(f"{quote(self.encoded)} is not a {self.algorithm} in lower-case hex")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``algorithm:hex``.

        Raises:
            DigestInvalid: unknown algorithm, or hex of the wrong length or case.
        """
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise DigestInvalid(f"{quote(text)} is not a digest; one is written algorithm:hex")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """Compute the address of content that is held in memory.

        Raises:
            DigestInvalid: unknown algorithm.
        """
        make = _HASHERS.get(algorithm)
        if make is None:
            return cls(algorithm, "")
        hasher = make()
        hasher.update(content)
        return cls(algorithm, hasher.hexdigest())

    def hasher(self) -> Hasher:
        """Start a hash of this digest's algorithm."""
        return _HASHERS[self.algorithm]()

    def matches(self, hasher: Hasher) -> bool:
        """Tell whether everything that the hasher took is the content of this address."""
        return hasher.hexdigest() == self.encoded

    def __hash__(self) -> int:
        """Hash by the hex alone: a string remembers its hash, and two algorithms never share a length."""
        return hash(self.encoded)

    def __str__(self) -> str:
        """Write ``algorithm:hex``."""
        return f"{self.algorithm}:{self.encoded}"
