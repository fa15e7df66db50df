"""Operations by name: arguments as JSON in, facts on the way, a JSON object out; who changed what is logged."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from mirror.errors import InvalidRequest, MirrorError, NotFound, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

log = structlog.get_logger(__name__)

Document = dict[str, Any]
"""What becomes a JSON object."""


class Report(Protocol):
    """Takes facts while an operation runs; returns when they are on their way."""

    async def __call__(self, facts: Document, /) -> None:
        """Hand them on."""
        ...


class Run(Protocol):
    """Does the work of an operation. Raises MirrorError when it cannot."""

    async def __call__(self, arguments: Arguments, report: Report, /) -> Document:
        """Return the result."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing that can be asked for; ``accepts`` are the names of its arguments."""

    name: str
    run: Run
    accepts: Collection[str] = ()
    changes_cache: bool = False


class Arguments:
    """What the caller has given, each argument checked when it is taken; one that was left out has its default."""

    def __init__(self, given: Mapping[str, object]) -> None:
        """Take JSON's values."""
        self._given = given

    def text(self, name: str) -> str:
        """Return a text that has to be given.

        Raises:
            InvalidRequest: it is not.
        """
        found = self.find_text(name)
        if found is None:
            raise InvalidRequest(f"the argument {name} is missing")
        return found

    def find_text(self, name: str) -> str | None:
        """Return a text, where there is one.

        Raises:
            InvalidRequest: it is something else.
        """
        found: str | None = self._take(name, str, "a text")
        return found

    def texts(self, name: str) -> Sequence[str]:
        """Return a list of texts, empty where none was given.

        Raises:
            InvalidRequest: it is something else.
        """
        found: list[object] = self._take(name, list, "a list of texts") or []
        texts = [one for one in found if isinstance(one, str)]
        if len(texts) != len(found):
            raise InvalidRequest(f"the argument {name} has to be a list of texts")
        return texts

    def flag(self, name: str) -> bool:
        """Return a boolean, false where none was given.

        Raises:
            InvalidRequest: it is something else.
        """
        return self._take(name, bool, "true or false") or False

    def number(self, name: str, default: float) -> float:
        """Return a number that is not negative.

        Raises:
            InvalidRequest: it is something else.
        """
        found = self._given.get(name)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < float("inf"):
            raise InvalidRequest(f"the argument {name} has to be a number, 0 or more")
        return float(found)

    def _take(self, name: str, kind: type[Any], described: str) -> Any:  # noqa: ANN401 - of the kind, or None
        found = self._given.get(name)
        if found is None or isinstance(found, kind):
            return found
        raise InvalidRequest(f"the argument {name} has to be {described}")


class Operations:
    """All that can be asked for."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        """Take them; each has a name of its own."""
        self._by_name = {one.name: one for one in operations}

    @property
    def names(self) -> Sequence[str]:
        """What there is."""
        return sorted(self._by_name)

    async def run(self, name: str, given: Mapping[str, object], report: Report, *, by: str) -> Document:
        """Do what is asked for; ``by`` says who asks.

        Raises:
            NotFound: there is no such operation.
            InvalidRequest: the arguments make no sense.
            MirrorError: it failed.
        """
        operation = self._by_name.get(name)
        if operation is None:
            raise NotFound(f"there is no operation {quote(name)}; there are {', '.join(self.names)}")
        unknown = sorted(given.keys() - set(operation.accepts))
        if unknown:
            raise InvalidRequest(f"{name} has no argument {quote(unknown[0])}")
        if not operation.changes_cache:
            return await operation.run(Arguments(given), report)
        return await _run_logged(operation, given, report, by)


async def _run_logged(operation: Operation, given: Mapping[str, object], report: Report, by: str) -> Document:
    started = time.perf_counter()
    error: str | None = "it was broken off"
    try:
        result = await operation.run(Arguments(given), report)
        error = None
    except MirrorError as failure:
        error = str(failure)
        raise
    finally:
        log.info(
            "cache.changed",
            operation=operation.name,
            arguments=dict(given),
            by=by,
            duration_seconds=round(time.perf_counter() - started, 3),
            error=error,
        )
    return result
