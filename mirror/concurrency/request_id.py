"""The name of the request that work is done for; a task that it starts, and that may outlive it, bears it too."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
