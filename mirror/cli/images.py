"""Images and platforms that are given to a command, as arguments or in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.errors import InvalidRequest, UsageError
from mirror.oci.image_name import ImageName, ImageNames
from mirror.oci.platforms import Platform

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from mirror.config import Config

EVERY_PLATFORM = "all"
_STANDARD_INPUT = "-"


def add_image_options(parser: argparse.ArgumentParser, *, platforms: str) -> None:
    """Add ``IMAGE...``, ``--from`` and ``--platform``, of which ``platforms`` says what it means."""
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE", help="as for docker pull: alpine:3.20, ghcr.io/o/n@sha256:…"
    )
    parser.add_argument(
        "--from", dest="list", metavar="FILE", help="a file with one image a line, # comments; -: stdin"
    )
    parser.add_argument("--platform", action="append", default=[], metavar="OS/ARCH", help=platforms)


def image_names(config: Config) -> ImageNames:
    """Return what reads the names of images in the light of a configuration."""
    return ImageNames(config.upstreams, default=config.default_upstream.name)


def read_images(options: argparse.Namespace, config: Config) -> Sequence[ImageName]:
    """Return the images that are given, each once.

    Raises:
        UsageError: none is, or what is given is no image.
    """
    names = image_names(config)
    found: dict[str, ImageName] = {}
    for text in (*options.images, *_listed(options.list)):
        try:
            name = names.parse(text)
        except InvalidRequest as error:
            raise UsageError(f"{error}") from error
        found.setdefault(str(ImageName(name.repository, name.reference_or_latest)), name)
    if not found:
        raise UsageError("say which images: mirror COMMAND alpine:3.20, or --from FILE")
    return [ImageName(name.repository, name.reference_or_latest) for name in found.values()]


def read_platforms(options: argparse.Namespace) -> Sequence[Platform]:
    """Return the platforms that are given; none where that is none, or ``all``.

    Raises:
        UsageError: what is given is none.
    """
    if options.platform == [EVERY_PLATFORM]:
        return []
    try:
        return [Platform.parse(part) for text in options.platform for part in text.split(",")]
    except InvalidRequest as error:
        raise UsageError(f"{error}") from error


def _listed(file: str | None) -> Iterator[str]:
    """Yield the images of a list."""
    if file is None:
        return
    try:
        text = sys.stdin.read() if file == _STANDARD_INPUT else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the list {file}: {error}") from error
    yield from _without_comments(text.splitlines())


def _without_comments(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        image = line.partition("#")[0].strip()
        if image:
            yield image
