"""``mirror status``: how things stand with a cache, and with the server that runs on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mirror.cli.control import Control
from mirror.cli.options import add_cache_options, load_cache_config
from mirror.telemetry import logs

if TYPE_CHECKING:
    import argparse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("status", help="how things stand with the cache and the server")
    add_cache_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print how things stand.

    Raises:
        ConfigError: the configuration cannot be used.
        MirrorError: there is no cache, or the server could not be asked.
    """
    logs.silence()
    print(json.dumps(Control(load_cache_config(options)).ask("status", {}), indent=2))
    return 0
