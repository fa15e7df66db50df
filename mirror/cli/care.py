"""``mirror ls``, ``pin``, ``unpin``, ``rm`` and ``gc``: what is cached, and what is to become of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mirror.cli.control import Control
from mirror.cli.options import add_cache_options, load_cache_config
from mirror.cli.tables import format_age, format_table
from mirror.config.values import duration
from mirror.errors import UsageError
from mirror.sizes import format_bytes
from mirror.telemetry import logs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

_IMAGE = "as for docker pull: alpine:3.20, ghcr.io/owner/name@sha256:…"
_HEADER = ("IMAGE", "DIGEST", "SIZE", "LAST USE", "PINNED")
_DIGEST_CHARACTERS = 19  # sha256: and twelve digits, as Docker shows them


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands."""
    listing = _add(commands, "ls", "list what is cached", run_ls)
    listing.add_argument(
        "repository", nargs="?", metavar="REPOSITORY", help="only this one: alpine, ghcr.io/owner/name; or an upstream"
    )
    for name, text, run in (
        ("pin", "keep an image, whatever its last use", run_pin),
        ("unpin", "let an image go again when its time comes", run_unpin),
        ("rm", "remove an image from the cache; layers that others need stay", run_rm),
    ):
        parser = _add(commands, name, text, run)
        parser.add_argument("image", metavar="IMAGE", help=_IMAGE)
        if run is run_rm:
            parser.add_argument("-a", "--all-tags", action="store_true", help="remove the whole repository")
    collect = _add(commands, "gc", "remove what nothing needs", run_gc)
    collect.add_argument(
        "--older-than", default="1h", metavar="DURATION", help="only what nobody used for so long; default: 1h"
    )


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text)
    add_cache_options(parser)
    parser.set_defaults(run=run)
    return parser


def run_ls(options: argparse.Namespace) -> int:
    """Print the images of every repository, or of one.

    Raises:
        ConfigError, UsageError: the configuration, or the name, cannot be used.
        MirrorError: there is no such repository, or the server could not be asked.
    """
    logs.silence()
    arguments = {} if options.repository is None else {"repository": options.repository}
    repositories: dict[str, dict[str, Any]] = {}

    def add(facts: Mapping[str, Any]) -> None:
        known = repositories.setdefault(facts["repository"], {**facts, "images": []})
        known["images"] += facts["images"]

    Control(load_cache_config(options)).ask("ls", arguments, progress=add)
    for one in repositories.values():
        one["images"].sort(key=lambda image: (image["tags"] or ["~"], image["digest"]))
    if options.json:
        print(json.dumps({"repositories": list(repositories.values())}, indent=2))
    elif not repositories:
        print("Nothing is cached yet.")
    else:
        print(format_table(_HEADER, [row for one in repositories.values() for row in _rows(one)]))
    return 0


def _rows(repository: Mapping[str, Any]) -> Sequence[tuple[str, ...]]:
    return [
        (
            f"{repository['repository']}:{tag}" if tag else f"{repository['repository']}",
            image["digest"][:_DIGEST_CHARACTERS],
            format_bytes(image["size_bytes"]),
            format_age(image["last_used"]),
            "yes" if {tag, image["digest"]} & set(image["pins"]) else "",
        )
        for image in repository["images"]
        for tag in image["tags"] or [""]
    ]


def run_pin(options: argparse.Namespace) -> int:
    """Pin an image; what can be raised is as for `run_ls`."""
    return _do(options, "pin", {"image": options.image}, lambda it: f"Pinned {it['image']} ({it['digest']})")


def run_unpin(options: argparse.Namespace) -> int:
    """Take a pin away; what can be raised is as for `run_ls`."""
    return _do(options, "unpin", {"image": options.image}, lambda it: f"{it['image']} is no longer pinned")


def run_rm(options: argparse.Namespace) -> int:
    """Remove an image; what can be raised is as for `run_ls`."""
    arguments = {"image": options.image, "all_tags": options.all_tags}
    return _do(options, "rm", arguments, _describe_removal)


def run_gc(options: argparse.Namespace) -> int:
    """Remove what nothing needs; what can be raised is as for `run_ls`."""
    try:
        seconds = duration().read(options.older_than)
    except ValueError as error:
        raise UsageError(f"--older-than {error}") from error
    return _do(options, "gc", {"older_than_seconds": seconds}, _describe_collection)


def _do(
    options: argparse.Namespace, operation: str, arguments: Mapping[str, object], describe: Callable[[Any], str]
) -> int:
    logs.silence()
    result = Control(load_cache_config(options)).ask(operation, arguments)
    print(json.dumps(result, indent=2) if options.json else describe(result))
    return 0


def _describe_removal(result: Mapping[str, Any]) -> str:
    files = f"{len(result['removed'])} files, {format_bytes(result['freed_bytes'])}"
    return f"Removed {result['image']}: {files if result['removed'] else 'nothing but its name, all else is needed'}"


def _describe_collection(result: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in result["files"].items() if number)
    return f"Freed {format_bytes(result['freed_bytes'])}" + (f": {kinds}" if kinds else "")
