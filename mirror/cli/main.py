"""The command line: one parser, one exit code for each kind of failure."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mirror import __version__
from mirror.cli import care, cert, check, client_config, export, import_, login, serve, status, verify, warm
from mirror.errors import ConfigError, MirrorError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_FAILURE = 1
_MISUSE = 2


def make_parser() -> argparse.ArgumentParser:
    """Return what reads every command."""
    parser = argparse.ArgumentParser(
        prog="mirror", description="A pull-through caching mirror for container registries."
    )
    parser.add_argument("--version", action="version", version=f"mirror {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    serve.add_parser(commands)
    login.add_parsers(commands)
    check.add_parser(commands)
    warm.add_parser(commands)
    export.add_parser(commands)
    import_.add_parser(commands)
    client_config.add_parser(commands)
    cert.add_parser(commands)
    status.add_parser(commands)
    care.add_parsers(commands)
    verify.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return 0, 1 for failure or 2 for misuse."""
    options = make_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ConfigError, UsageError) as error:
        return _fail(error, _MISUSE)
    except (MirrorError, OSError) as error:
        return _fail(error, _FAILURE)
    except KeyboardInterrupt:
        return 130
    return code


def _fail(error: BaseException, code: int) -> int:
    print(f"mirror: {error}", file=sys.stderr)
    return code
