"""Whom to ask for a blob."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.oci.reference import Repository
    from mirror.ports import Upstream


_LONGEST_BLOB_BYTES: Final = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whom to ask for a blob, and how to make sure that the repository holds it before sharing what others fetch."""

    repository: Repository
    upstream: Upstream
    confirm: Callable[[], Awaitable[None]]
    most_bytes: int = _LONGEST_BLOB_BYTES
    """Where the upstream does not say how long the blob is: what a manifest says, or the most that there may be."""
