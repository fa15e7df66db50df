"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.concurrency.folders import make_private
from mirror.config import load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from mirror.config import Config

_DEFAULT_FILE = Path("mirror.toml")


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument("--config", metavar="FILE", help="configuration; default: $MIRROR_CONFIG or ./mirror.toml")


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Add what names the cache that a command is about, and ``--json``."""
    add_config_option(parser)
    parser.add_argument("--cache-dir", metavar="DIR", help="the mirror's cache folder, if its flag names another")
    parser.add_argument("--json", action="store_true", help="print JSON")


def become_owner(folder: Path) -> None:
    """Make a cache folder that is not there; as root, go on as its owner, whose server has to rule over what is in it.

    Raises:
        OSError: it cannot be made.
    """
    make_private(folder)
    status = folder.stat()
    if os.geteuid() == 0 and status.st_uid != 0:
        os.setegid(status.st_gid)
        os.seteuid(status.st_uid)


def load_cache_config(options: argparse.Namespace) -> Config:
    """Read the configuration, with the cache folder that ``--cache-dir`` names.

    Raises:
        ConfigError: it cannot be used.
    """
    return load_config(options, {"cache.dir": options.cache_dir})


def load_config(options: argparse.Namespace, overrides: Mapping[str, object] | None = None) -> Config:
    """Read the configuration that ``--config`` names, else ``MIRROR_CONFIG``, else ``mirror.toml`` where there is one.

    Raises:
        ConfigError: it cannot be used.
    """
    named = options.config or os.environ.get("MIRROR_CONFIG")
    path = Path(named) if named else _DEFAULT_FILE if _DEFAULT_FILE.exists() else None
    return load(path=path, environ=os.environ, overrides=overrides or {})
