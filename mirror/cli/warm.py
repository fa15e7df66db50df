"""``mirror warm``: images into the cache, ahead of need; by the server that runs there, else by itself."""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from typing import TYPE_CHECKING, Any

from mirror.cli.control import Control
from mirror.cli.images import add_image_options, read_images, read_platforms
from mirror.cli.options import add_cache_options, become_owner, load_cache_config
from mirror.cli.progress import Progress
from mirror.cli.sockets import Listening
from mirror.sizes import format_bytes
from mirror.telemetry import logs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from mirror.config import Config
    from mirror.control.operations import Document

_SHOWN_DIGITS = 12


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("warm", help="pull images into the cache ahead of need")
    add_image_options(parser, platforms="may be repeated; default: this machine's; all: every one")
    add_cache_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fetch images; 1 if one of them failed.

    Raises:
        ConfigError, UsageError: the configuration, or what was typed, cannot be used.
        MirrorError: the server could not be asked.
    """
    logs.silence()
    config = load_cache_config(options)
    images = read_images(options, config)
    arguments = {"images": [str(image) for image in images], "platforms": _platforms(options)}
    with Progress() as progress:
        result = _ask(config, arguments, _shown(progress, is_quiet=options.json))
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        _say_failed(result["failed"], len(images))
    return 1 if result["failed"] else 0


def _platforms(options: argparse.Namespace) -> Sequence[str]:
    """Return the platforms that are meant: this machine's, as for ``docker pull``, where none is named."""
    options.platform = options.platform or [f"linux/{platform.machine()}"]
    return [str(one) for one in read_platforms(options)]


def _ask(config: Config, arguments: Mapping[str, object], progress: Callable[[Document], None]) -> Document:
    control = Control(config)
    if control.finds_server():
        return control.ask_server("warm", arguments, progress=progress)
    become_owner(config.cache.dir)
    with Listening((), 1, control=config.control_socket) as listening:
        return asyncio.run(_ask_itself(config, listening, arguments, progress))


async def _ask_itself(
    config: Config, listening: Listening, arguments: Mapping[str, object], progress: Callable[[Document], None]
) -> Document:
    """Be the server for as long as it takes, without a port; meanwhile other commands find it too."""
    from mirror.app import counting, prepare_store, running  # noqa: PLC0415 - most commands have no need of it

    await asyncio.to_thread(prepare_store, config)
    with counting() as counters:
        async with running(config, listening.of_worker(0), counters):
            return await asyncio.to_thread(Control(config).ask_server, "warm", arguments, progress=progress)


def _shown(progress: Progress, *, is_quiet: bool) -> Callable[[Document], None]:
    def show(facts: Document) -> None:
        ended = facts.get("ended")
        if ended is None:
            title = f"{facts['image']}  {facts['digest'].partition(':')[2][:_SHOWN_DIGITS]}"
            progress.move(title, facts["done_bytes"], facts["size_bytes"])
        elif not is_quiet and "error" not in ended:
            progress.say(_describe(ended))

    return show


def _describe(image: Mapping[str, Any]) -> str:
    platforms = f" ({', '.join(image['platforms'])})" if image["platforms"] else ""
    fetched = "was there" if not image["fetched_bytes"] else f"fetched {format_bytes(image['fetched_bytes'])}"
    stale = "; its upstream could not say whether the tag has moved" if image["stale"] else ""
    return f"{image['image']}{platforms}: {format_bytes(image['size_bytes'])}, {fetched}{stale}"


def _say_failed(failed: Sequence[Mapping[str, Any]], number: int) -> None:
    for one in failed:
        print(f"mirror: {one['image']}: {one['error']}", file=sys.stderr)
    if failed:
        print(f"mirror: {len(failed)} of {number} images failed; run it again to go on", file=sys.stderr)
