"""Structured logs: one set-up for the process; JSON on standard output, or readable lines on a terminal."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import structlog

from mirror.config import LogFormat

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

    from mirror.config import LogConfig


def configure(config: LogConfig) -> None:
    """Set structlog up, and let what libraries log through ``logging`` come out the same way."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_process,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = _renderer(config.format)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def silence() -> None:
    """Let nothing be logged: a command says itself what its user has to know."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def _add_process(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Tell the workers' lines apart."""
    event["pid"] = os.getpid()
    return event


def _renderer(log_format: LogFormat) -> Processor:
    if log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and sys.stdout.isatty()):
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer()
