"""``Range``, as far as registries' clients use it.

Whatever is not one plain range of bytes gets the whole body, as the standard allows: podman, which asks for several
ranges at once, takes that and fails on 416.

Spec: https://www.rfc-editor.org/rfc/rfc9110.html#section-14
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mirror.errors import RangeUnsatisfiable

_ONE_RANGE: Final = re.compile(r"\s*bytes\s*=\s*([0-9]*)-([0-9]*)\s*", re.ASCII | re.IGNORECASE)
_CONTENT_RANGE: Final = re.compile(r"\s*bytes\s+([0-9]+)-([0-9]+)/([0-9]+|\*)\s*", re.ASCII | re.IGNORECASE)
_DIGITS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """The bytes from ``first`` to ``last``, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.last - self.first + 1

    def content_range(self, size_bytes: int) -> str:
        """Write ``Content-Range`` for a body of this size."""
        return f"bytes {self.first}-{self.last}/{size_bytes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRange:
    """The part of a body that an answer holds, and the size of the whole where the sender knows it."""

    range: ByteRange
    size_bytes: int | None


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """Choose what to send of a body of a known size; ``None`` is all of it, with status 200.

    Raises:
        RangeUnsatisfiable: one well-formed range that starts past the end.
    """
    match = _ONE_RANGE.fullmatch(header) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return _suffix(_integer(match[2]), size_bytes)
    first = _integer(match[1])
    last = _integer(match[2]) if match[2] else None
    if (last is not None and last < first) or first == size_bytes == 0:
        return None
    if first >= size_bytes:
        raise RangeUnsatisfiable(f"the range starts at byte {first} of {size_bytes}", size_bytes=size_bytes)
    return ByteRange(first=first, last=size_bytes - 1 if last is None else min(last, size_bytes - 1))


def open_start(header: str | None) -> int | None:
    """Return N of ``bytes=N-``, the one form that makes sense for a body of unknown size; otherwise ``None``."""
    match = _ONE_RANGE.fullmatch(header) if header else None
    return _integer(match[1]) if match and match[1] and not match[2] else None


def parse_content_range(header: str | None) -> ContentRange | None:
    """Read an upstream's ``Content-Range``; ``None`` where there is none that makes sense."""
    match = _CONTENT_RANGE.fullmatch(header) if header else None
    if match is None:
        return None
    first, last = _integer(match[1]), _integer(match[2])
    size_bytes = None if match[3] == "*" else _integer(match[3])
    if last < first or (size_bytes is not None and last >= size_bytes):
        return None
    return ContentRange(range=ByteRange(first=first, last=last), size_bytes=size_bytes)


def _suffix(length: int, size_bytes: int) -> ByteRange | None:
    if size_bytes == 0:
        return None
    if length == 0:
        raise RangeUnsatisfiable(f"the range asks for the last 0 bytes of {size_bytes}", size_bytes=size_bytes)
    return ByteRange(first=max(0, size_bytes - length), last=size_bytes - 1)


def _integer(digits: str) -> int:
    """Read digits, at most twenty of them: that is past every end already, and int() refuses thousands."""
    return int((digits.lstrip("0") or "0")[:_DIGITS])
