"""``mirror check``: is the configuration right, and what does each upstream say?"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from typing import TYPE_CHECKING

from mirror.cli.options import add_config_option, load_config
from mirror.credentials.sources import CredentialSources
from mirror.telemetry import logs
from mirror.upstream.inspection import Finding, Inspector
from mirror.upstream.sessions import Sessions
from mirror.web.admin import AdminToken
from mirror.web.htpasswd import Htpasswd
from mirror.web.tls import ServerTls

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mirror.config import Config, UpstreamConfig

_HEADER = ("UPSTREAM", "REACHABLE", "AUTH", "CREDENTIAL", "LIMIT")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("check", help="validate the configuration and ask every upstream")
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what was found; 1 if anything is at fault.

    Raises:
        ConfigError: the configuration, or the certificate or passwords that it names, cannot be used.
    """
    logs.silence()
    config = load_config(options)
    _ = ServerTls.of(config.server), Htpasswd.of(config.access)
    AdminToken.check(config.access)
    findings = () if config.cache.offline else asyncio.run(_inspect_all(config))
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    elif config.cache.offline:
        print("The configuration is valid. cache.offline is set, so no upstream was asked.")
    else:
        _print_table(findings)
    return 1 if any(finding.faults for finding in findings) else 0


async def _inspect_all(config: Config) -> Sequence[Finding]:
    sources = CredentialSources(config, time.time)

    async def inspect(upstream: UpstreamConfig) -> Finding:
        async with Sessions(upstream) as sessions:
            return await Inspector(upstream, sessions, sources.of(upstream), time.time).inspect()

    return await asyncio.gather(*(inspect(upstream) for upstream in config.upstreams.values()))


def _print_table(findings: Sequence[Finding]) -> None:
    rows = [_HEADER, *(_row(finding) for finding in findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    faults = [f"{finding.upstream}: {fault}" for finding in findings for fault in finding.faults]
    print("", *faults, sep="\n") if faults else print("\nThe configuration is valid, and every upstream answers.")


def _row(finding: Finding) -> tuple[str, ...]:
    return (
        finding.upstream,
        "yes" if finding.is_reachable else "no",
        finding.auth,
        finding.credential,
        finding.limit,
    )
