"""Who is told what belongs to what, and how long it took: spans of a trace."""

from __future__ import annotations

from contextlib import nullcontext
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence
    from contextlib import AbstractContextManager

    Facts = Mapping[str, str | int | float | None]


class Role(Enum):
    """What a span is about: a client's request, a request of ours, or work of our own."""

    SERVER = auto()
    CLIENT = auto()
    INTERNAL = auto()


class Span(Protocol):
    """A stretch of time that is being traced; it ends with the block that it was got from."""

    def describe(self, facts: Facts, *, name: str | None = None) -> None:
        """Add what is known now, but for what is None; ``name`` is a better one than it began with."""
        ...

    def fail(self, reason: str) -> None:
        """Say that it failed, and how."""
        ...

    def carry(self, headers: MutableMapping[str, str]) -> None:
        """Add to a request's headers what lets its receiver go on with this trace."""
        ...


class Tracer(Protocol):
    """Makes spans; each belongs to the one that it begins in, in the same task or the task that started this one."""

    def span(
        self, name: str, facts: Facts, *, role: Role = Role.INTERNAL, headers: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Span]:
        """Trace a block, as a part of the trace that a request's ``headers`` name, where they do."""
        ...

    def part(self, name: str, facts: Facts) -> AbstractContextManager[Span]:
        """Trace a block where it is a part of something that is traced, and not otherwise."""
        ...

    def ended(self, name: str, each: Sequence[tuple[float, Facts]], *, role: Role = Role.INTERNAL) -> None:
        """Trace what has just ended: for each, the seconds that it took and what is known of it."""
        ...


class _Nothing:
    """A span of nobody's."""

    def describe(self, facts: Facts, *, name: str | None = None) -> None:
        """Do nothing."""

    def fail(self, reason: str) -> None:
        """Do nothing."""

    def carry(self, headers: MutableMapping[str, str]) -> None:
        """Do nothing."""


class _Untraced:
    """Traces nothing."""

    def __init__(self) -> None:
        self._nothing = nullcontext(_Nothing())

    def span(
        self,
        name: str,  # noqa: ARG002 - the port's
        facts: Facts,  # noqa: ARG002
        *,
        role: Role = Role.INTERNAL,  # noqa: ARG002
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> AbstractContextManager[Span]:
        """Do nothing."""
        return self._nothing

    def part(self, name: str, facts: Facts) -> AbstractContextManager[Span]:  # noqa: ARG002
        """Do nothing."""
        return self._nothing

    def ended(self, name: str, each: Sequence[tuple[float, Facts]], *, role: Role = Role.INTERNAL) -> None:
        """Do nothing."""


UNTRACED: Final[Tracer] = _Untraced()
"""For who does not want traces."""
