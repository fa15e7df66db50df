"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.config import load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from mirror.config import Config

_DEFAULT_FILE = Path("mirror.toml")


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument("--config", metavar="FILE", help="configuration; default: $MIRROR_CONFIG or ./mirror.toml")


def load_config(options: argparse.Namespace, overrides: Mapping[str, object] | None = None) -> Config:
    """Read the configuration that ``--config`` names, else ``MIRROR_CONFIG``, else ``mirror.toml`` where there is one.

    Raises:
        ConfigError: it cannot be used.
    """
    named = options.config or os.environ.get("MIRROR_CONFIG")
    path = Path(named) if named else _DEFAULT_FILE if _DEFAULT_FILE.exists() else None
    return load(path=path, environ=os.environ, overrides=overrides or {})
