"""The owner of every task that outlives the request which started it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from mirror.errors import MirrorError

log = structlog.get_logger(__name__)

_CLOSING_SECONDS = 5.0
T = TypeVar("T")


class Supervisor:
    """Starts, names and keeps tasks; reports what they raise; on exit cancels and awaits them all."""

    def __init__(self, *, expected: type[MirrorError]) -> None:
        """Take ``expected``, the errors that somebody awaiting the task deals with and that need no report."""
        self._expected = expected
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSING_SECONDS)

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run ``work`` until it ends or the supervisor closes; the task need not be kept or awaited."""
        if self._closing:
            work.close()
            raise asyncio.CancelledError
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()  # also marks it as seen: whoever awaits the task still gets it
        if error is not None and not isinstance(error, self._expected):
            log.error("task.failed", task=task.get_name(), exc_info=error)
