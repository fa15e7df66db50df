"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

_DEFAULT_FILE = Path("mirror.toml")


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument("--config", metavar="FILE", help="configuration; default: $MIRROR_CONFIG or ./mirror.toml")


def find_config(option: str | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file to read: the one named, or ``mirror.toml`` where there is one."""
    named = option or environ.get("MIRROR_CONFIG")
    if named:
        return Path(named)
    return _DEFAULT_FILE if _DEFAULT_FILE.exists() else None
