"""``mirror export``: images of the cache as an OCI image layout in a tar file, for a site with no network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mirror.cli.images import add_image_options, read_images, read_platforms
from mirror.cli.options import add_cache_options, load_cache_config
from mirror.cli.progress import Progress
from mirror.engine.stored_images import StoredImages
from mirror.errors import NotStored, StorageError, UsageError
from mirror.oci.descriptor import Descriptor
from mirror.oci.layout import render_index
from mirror.sizes import format_bytes
from mirror.storage.archive import write_archive
from mirror.storage.blobs import FileBlobStore
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from mirror.telemetry import logs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from mirror.engine.stored_images import StoredImage
    from mirror.oci.digest import Digest
    from mirror.oci.image_name import ImageName
    from mirror.oci.platforms import Platform

_STANDARD_OUTPUT = "-"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("export", help="write images of the cache into a tar file")
    add_image_options(parser, platforms="only these; may be repeated; default: those that are all there")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the tar file; -: standard output")
    add_cache_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the archive; no server need run.

    Raises:
        ConfigError, UsageError: the configuration, or what was typed, cannot be used.
        NotStored: an image is not in the cache; nothing was written.
        StorageError: what is in the cache is damaged, or the file cannot be written.
    """
    logs.silence()
    is_piped = options.output == _STANDARD_OUTPUT
    if is_piped and options.json:
        raise UsageError("--json and the archive cannot both go to standard output: name a file, -o FILE")
    if is_piped and sys.stdout.isatty():
        raise UsageError("an archive is not for a terminal: redirect it, or name a file, -o FILE")
    config = load_cache_config(options)
    layout = Layout(config.cache.dir)
    images = asyncio.run(_find(layout, read_images(options, config), read_platforms(options)))
    for image in images:
        _warn(image)
    size_bytes = _write(layout, images, options.output)
    _say(images, size_bytes, options)
    return 0


async def _find(layout: Layout, names: Sequence[ImageName], platforms: Sequence[Platform]) -> Sequence[StoredImage]:
    if not layout.blobs.is_dir():
        raise NotStored(f"nothing is cached in {layout.root}; name the mirror's configuration by --config")
    try:
        layout.index.mkdir(exist_ok=True)  # one that was lost is made anew of what else is there
        index = DiskIndex(layout.index)
    except OSError as error:
        text = f"cannot open the index of {layout.root}: {error.strerror}; run this as the user who runs the mirror"
        raise StorageError(text) from error
    try:
        stored = StoredImages(index, FileBlobStore(layout))
        return [await stored.find(name, platforms) for name in names]
    finally:
        index.close()


def _write(layout: Layout, images: Sequence[StoredImage], output: str) -> int:
    """Write the archive; return its size in bytes."""
    entries = [(str(image.name), _root(image)) for image in images]
    blobs = list(_contents(images))
    total_bytes = sum(layout.blob(digest).lstat().st_size for digest in blobs)
    with Progress() as progress, _opened(output) as stream:
        wrote = progress.counter("exporting", total_bytes)
        write_archive(stream, layout, render_index(entries), blobs, wrote=wrote)
    return total_bytes


def _root(image: StoredImage) -> Descriptor:
    root = image.closure.root
    return Descriptor(media_type=root.media_type, digest=root.digest, size_bytes=len(root.body))


def _contents(images: Sequence[StoredImage]) -> dict[Digest, None]:
    """Return every blob once: manifests before what they name, so that a reader knows early what is to come."""
    manifests = (digest for image in images for digest in image.closure.manifests)
    blobs = (digest for image in images for digest in image.closure.blobs)
    return dict.fromkeys((*manifests, *blobs))


@contextlib.contextmanager
def _opened(output: str) -> Iterator[IO[bytes]]:
    """Open the file beside its name, which it gets when the block has ended well."""
    if output == _STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _warn(image: StoredImage) -> None:
    if image.closure.left_out:
        left_out = ", ".join(map(str, image.closure.left_out))
        print(f"mirror: {image.name}: {left_out} not wholly in this cache, left out", file=sys.stderr)


def _say(images: Sequence[StoredImage], size_bytes: int, options: argparse.Namespace) -> None:
    if options.json:
        described = [describe(image) for image in images]
        print(json.dumps({"file": options.output, "size_bytes": size_bytes, "images": described}, indent=2))
    elif options.output != _STANDARD_OUTPUT:
        print(f"{len(images)} images, {format_bytes(size_bytes)}, are in {options.output}")


def describe(image: StoredImage) -> dict[str, object]:
    """Return what ``--json`` says of an image."""
    return {
        "image": str(image.name),
        "digest": str(image.closure.root.digest),
        "platforms": [str(platform) for platform in image.closure.platforms],
        "left_out": [str(platform) for platform in image.closure.left_out],
    }
