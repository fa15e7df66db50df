"""Structured logs: one set-up for the process; JSON on standard output, or readable lines on a terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from mirror.config import LogFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from structlog.typing import EventDict, Processor

    from mirror.config import LogConfig

_ENCODER = json.JSONEncoder(default=repr)  # json.dumps with options makes one for each line
_TOLD_LEVELS = frozenset({"warning", "error", "critical"})
_listeners: list[Callable[[str, str, Mapping[str, object]], None]] = []
_json_lines: LineWriter | None = None  # where lines go that need nothing of structlog


def configure(config: LogConfig) -> None:
    """Set structlog up, and let what libraries log through ``logging`` come out the same way."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    renderer = _renderer(config.format)
    lines = LineWriter(sys.stdout)
    global _json_lines  # noqa: PLW0603 - the log is the process's, as structlog's own settings are
    _json_lines = lines if renderer is _to_json and level <= logging.INFO else None
    structlog.configure(
        processors=[_add_stamp, structlog.processors.format_exc_info, _tell_listeners, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_add_stamp],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


@contextmanager
def heard_by(listener: Callable[[str, str, Mapping[str, object]], None]) -> Iterator[None]:
    """Tell somebody level, event and facts of each warning and error that is logged while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def silence() -> None:
    """Let nothing be logged: a command says itself what its user has to know."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def render_members(facts: Mapping[str, object]) -> str:
    """Write facts as the members of a JSON object, for ``write_json``."""
    return _ENCODER.encode(facts)[1:-1]


def write_json(event: str, *members: str) -> bool:
    """Write events of level info where the log is JSON; otherwise False: log them through structlog, which can do all.

    For the one line of each request: structlog's way to the same line costs as much as the rest of a hit.
    """
    if _json_lines is None:
        return False
    stamp = f'"event": "{event}", "level": "info", "pid": {os.getpid()}, "timestamp": "{_seconds.now()}"'
    for one in members:
        _json_lines.msg(f"{{{one}, {stamp}}}")
    return True


class LineWriter:
    """Writes what is logged within one turn of the event loop at once; outside of a loop, line by line."""

    def __init__(self, file: TextIO) -> None:
        """Take where lines go."""
        self._file = file
        self._lines: list[str] = []

    def msg(self, line: str) -> None:
        """Write a line, at the latest when the loop has done what it is doing now."""
        self._lines.append(line)
        if len(self._lines) > 1:
            return  # the first of them has seen to it
        try:
            asyncio.get_running_loop().call_soon(self.flush)
        except RuntimeError:
            self.flush()

    debug = info = warning = error = critical = msg

    def flush(self) -> None:
        """Write what has come together."""
        lines, self._lines = self._lines, []
        if lines:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()


class _Seconds:
    """Writes the time, its whole seconds once."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def now(self) -> str:
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{nanoseconds // 1000:06d}Z"


_seconds = _Seconds()


def _add_stamp(_logger: object, method: str, event: EventDict) -> EventDict:
    """Add when, how severe, and which of the worker processes."""
    event["level"] = "error" if method == "exception" else method
    event["pid"] = os.getpid()
    event["timestamp"] = _seconds.now()
    return event


def _tell_listeners(_logger: object, _method: str, event: EventDict) -> EventDict:
    level = event["level"]
    if level in _TOLD_LEVELS:
        for listener in _listeners:
            listener(level, event["event"], event)
    return event


def _to_json(_logger: object, _method: str, event: EventDict) -> str:
    return _ENCODER.encode(event)


def _renderer(log_format: LogFormat) -> Processor:
    if log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and sys.stdout.isatty()):
        return structlog.dev.ConsoleRenderer()
    return _to_json
