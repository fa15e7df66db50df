"""``mirror status``: how things stand with a cache, and with the server that runs on it."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from mirror.cli.control import Control
from mirror.cli.options import add_cache_options, load_cache_config
from mirror.cli.tables import coloured, format_seconds, format_table
from mirror.sizes import format_bytes
from mirror.telemetry import logs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

_WATCH_SECONDS = 2.0
_CLEAR = "\x1b[H\x1b[2J"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("status", help="how things stand with the cache and the server")
    add_cache_options(parser)
    parser.add_argument("--watch", action="store_true", help="say it again every two seconds, in place on a terminal")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print how things stand.

    Raises:
        ConfigError: the configuration cannot be used.
        MirrorError: there is no cache, or the server could not be asked.
    """
    logs.silence()
    control = Control(load_cache_config(options))
    try:
        while True:
            status = control.ask("status", {})
            if options.watch and sys.stdout.isatty():
                print(_CLEAR, end="")
            print(json.dumps(status, indent=None if options.watch else 2) if options.json else describe(status))
            sys.stdout.flush()
            if not options.watch:
                return 0
            time.sleep(_WATCH_SECONDS)
    except KeyboardInterrupt:
        return 0  # how one stops to watch


def describe(status: Mapping[str, Any]) -> str:
    """Write a status for people."""
    return "\n".join([*_describe_server(status["server"]), *_describe_cache(status), *_describe_upstreams(status)])


def _describe_server(server: Mapping[str, Any] | None) -> Iterator[str]:
    if server is None:
        yield f"Server     {coloured('does not run', 'bad')}; this is what the cache folder says"
        return
    overview = server["overview"]
    workers = f"{overview['workers']} worker{'s' if overview['workers'] > 1 else ''}"
    told = [f"mirror {server['version']}", workers, f"started {_ago(server['started'])}"]
    if server["reloaded"] is not None:
        told.append(f"reloaded {_ago(server['reloaded'])}")
    yield f"Server     {coloured('runs', 'good')}: {', '.join(told)}"
    for title, traffic in (("Today", overview["today"]), ("Ever", overview["life"])):
        rate = "no requests" if traffic["hit_rate"] is None else f"{traffic['hit_rate']:.1%} hits"
        sent, fetched = format_bytes(traffic["sent_bytes"]), format_bytes(traffic["fetched_bytes"])
        yield f"{title:<10} {traffic['requests']} requests, {rate}; {sent} sent, {fetched} fetched"


def _ago(at: float) -> str:
    return format_seconds(time.time() - at)


def _describe_cache(status: Mapping[str, Any]) -> Iterator[str]:
    cache = status["cache"]
    bound = f" of {format_bytes(cache['max_size_bytes'])}" if cache["max_size_bytes"] else ""
    objects = ", ".join(f"{number} {kind}s" for kind, number in sorted(cache["objects"].items()))
    yield f"Stored     {format_bytes(cache['size_bytes'])}{bound}: {objects} in {cache['folder']}"
    kept = format_bytes(cache["min_free_bytes"])
    free = coloured(format_bytes(cache["free_bytes"]), "bad" if cache["free_bytes"] < cache["min_free_bytes"] else "")
    yield f"Disk       {free} free; {kept} are kept free"
    for one in status["downloads"]:
        size_bytes = one["size_bytes"]
        whole = f" of {format_bytes(size_bytes)} ({one['arrived_bytes'] / size_bytes:.0%})" if size_bytes else ""
        yield f"Download   {one['repository']} {one['digest'][:19]}: {format_bytes(one['arrived_bytes'])}{whole}"


def _describe_upstreams(status: Mapping[str, Any]) -> Iterator[str]:
    if status["server"] is None:
        return
    rows = [
        (one["name"], _state(one), one["credential"], _limit(one)) for one in status["server"]["overview"]["upstreams"]
    ]
    table = format_table(("UPSTREAM", "STATE", "CREDENTIAL", "RATE LIMIT"), rows)
    yield ""
    yield table.replace("does not answer", coloured("does not answer", "bad"))


def _state(upstream: Mapping[str, Any]) -> str:
    if upstream["is_offline"]:
        return "never asked"
    if upstream["is_up"] is None:
        return "not asked yet"
    return "answers" if upstream["is_up"] else "does not answer"


def _limit(upstream: Mapping[str, Any]) -> str:
    if upstream["wait_seconds"] > 0:
        return f"reached; asked again in {math.ceil(upstream['wait_seconds'])} s"
    if upstream["limit"] is None or upstream["remaining"] is None:
        return "not told"
    return f"{upstream['remaining']} of {upstream['limit']} left"
