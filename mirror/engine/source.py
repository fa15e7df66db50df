"""Whom to ask for a blob."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.oci.reference import Repository
    from mirror.ports import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whom to ask for a blob, and how to make sure that the repository holds it before sharing what others fetch."""

    repository: Repository
    upstream: Upstream
    confirm: Callable[[], Awaitable[None]]
