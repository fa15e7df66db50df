"""Operations that only look: ``status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mirror.control.operations import Arguments, Document, Report
    from mirror.ports import Space, Totals, Underway


class Accounts(Protocol):
    """What is known of what is stored."""

    async def totals(self) -> Totals:
        """Return how much is stored."""
        ...


class Files(Protocol):
    """The files of the store."""

    async def space(self) -> Space:
        """Measure."""
        ...

    async def underway(self) -> Sequence[Underway]:
        """List the blobs of which there is a part."""
        ...


class Looking:
    """Says how things stand with a cache folder, and with the server that runs on it."""

    def __init__(
        self,
        accounts: Accounts,
        files: Files,
        *,
        bounds: Document,
        server: Callable[[], Awaitable[Document]] | None = None,
    ) -> None:
        """Join the parts; ``bounds`` is what is shown of the configuration, ``server`` tells of a running server."""
        self._accounts = accounts
        self._files = files
        self._bounds = bounds
        self._server = server

    async def status(self, _arguments: Arguments, _report: Report) -> Document:
        """Return what is stored, its bounds, what is being downloaded, and what the server knows."""
        totals, space = await self._accounts.totals(), await self._files.space()
        return {
            "server": None if self._server is None else await self._server(),
            "cache": {
                **self._bounds,
                "size_bytes": totals.size_bytes,
                "objects": {kind.value: number for kind, number in totals.objects.items()},
                "free_bytes": space.free_bytes,
            },
            "downloads": [_underway(one) for one in await self._files.underway()],
        }


def _underway(one: Underway) -> Document:
    return {
        "repository": str(one.origin.repository),
        "digest": str(one.digest),
        "size_bytes": one.origin.size_bytes,
        "arrived_bytes": one.arrived_bytes,
    }
