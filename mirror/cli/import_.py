"""``mirror import``: takes an OCI image layout in a tar file into the cache, wholly verified or not at all."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.cli.export import describe
from mirror.cli.images import image_names
from mirror.cli.options import add_cache_options, become_owner, load_cache_config
from mirror.cli.progress import Progress
from mirror.engine.admission import Admission, BroughtImages
from mirror.errors import ArchiveInvalid, InvalidRequest, MirrorError, StorageError, UsageError, quote
from mirror.oci.digest import Digest
from mirror.oci.image_name import ImageName
from mirror.oci.layout import INDEX_LIMIT_BYTES, INDEX_NAME, MARKER_NAME, check_marker, read_blob_name, read_index
from mirror.sizes import format_bytes
from mirror.storage.archive import read_archive
from mirror.storage.arrivals import Arrivals
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from mirror.telemetry import logs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from mirror.config import Config
    from mirror.engine.stored_images import StoredImage
    from mirror.oci.layout import Entry
    from mirror.storage.archive import Member

_STANDARD_INPUT = "-"
_DOCUMENTS = {MARKER_NAME: 64 * 1024, INDEX_NAME: INDEX_LIMIT_BYTES}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("import", help="take the images of a tar file into the cache")
    parser.add_argument(
        "file", metavar="FILE", help="an OCI image layout as a tar file, also with gzip; -: standard input"
    )
    parser.add_argument(
        "--as", dest="name", metavar="IMAGE", help="what its one image is called, whatever it says itself"
    )
    add_cache_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verify the archive, then make its images known; a server may run or not.

    Raises:
        ConfigError, UsageError: the configuration, or what was typed, cannot be used.
        ArchiveInvalid, ManifestInvalid: the archive cannot be trusted; nothing was imported.
        StorageError, OSError: there is no room for it, or it cannot be read.
    """
    logs.silence()
    config = load_cache_config(options)
    layout = Layout(config.cache.dir)
    with _opened(options.file) as (stream, size_bytes):
        _create(layout)
        with Arrivals(layout, min_free_bytes=config.cache.min_free_bytes) as arrivals:
            documents = _take(stream, arrivals, size_bytes)
            entries = _read_entries(documents)
            names = _name_all(entries, options.name, config)
            images = asyncio.run(_admit(config, layout, arrivals, entries, names))
    _say(images, options)
    return 0


@contextmanager
def _opened(file: str) -> Iterator[tuple[io.BufferedReader, int | None]]:
    """Open the archive, and tell its size where it has one."""
    if file != _STANDARD_INPUT:
        try:
            stream = Path(file).open("rb")  # noqa: SIM115 - the next line closes it
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error.strerror}") from error
        with stream:
            yield stream, os.fstat(stream.fileno()).st_size or None
        return
    if sys.stdin.isatty():
        raise UsageError("an archive is not typed: redirect it, or name a file")
    with io.open(sys.stdin.fileno(), "rb", closefd=False) as stream:  # noqa: UP020 - it is open, and has no path
        yield stream, None


def _create(layout: Layout) -> None:
    """Make the folders of the cache."""
    become_owner(layout.root)
    layout.create()


def _take(stream: io.BufferedReader, arrivals: Arrivals, size_bytes: int | None) -> dict[str, bytes]:
    """Take in every blob; return the documents that are beside them."""
    documents: dict[str, bytes] = {}
    with Progress() as progress:
        wrote = progress.counter("importing", size_bytes)
        for member in read_archive(stream):
            pieces = _counted(member, wrote)
            digest = _digest_of(member)
            if digest is not None:
                arrivals.take(digest, member.size_bytes, pieces)
            elif member.name in _DOCUMENTS:
                documents[member.name] = _read_document(member, pieces)
    return documents


def _counted(member: Member, wrote: Callable[[int], None]) -> Iterator[bytes]:
    for piece in member.pieces():
        wrote(len(piece))
        yield piece


def _digest_of(member: Member) -> Digest | None:
    try:
        return read_blob_name(member.name)
    except InvalidRequest as error:
        raise ArchiveInvalid(f"the archive has {quote(member.name)}: {error}") from error


def _read_document(member: Member, pieces: Iterator[bytes]) -> bytes:
    limit_bytes = _DOCUMENTS[member.name]
    if member.size_bytes > limit_bytes:
        raise ArchiveInvalid(f"the archive's {member.name} is longer than {limit_bytes} bytes")
    return b"".join(pieces)


def _read_entries(documents: dict[str, bytes]) -> Sequence[Entry]:
    missing = [name for name in _DOCUMENTS if name not in documents]
    if missing:
        raise ArchiveInvalid(
            f"this is no OCI image layout: it has no {missing[0]}. Of what `docker save` writes, make one with:"
            " skopeo copy docker-archive:FILE oci-archive:OTHER:NAME"
        )
    check_marker(documents[MARKER_NAME])
    entries = read_index(documents[INDEX_NAME])
    if not entries:
        raise ArchiveInvalid(f"the archive has no image: its {INDEX_NAME} is empty")
    return entries


# ---- names


def _name_all(entries: Sequence[Entry], given: str | None, config: Config) -> Sequence[ImageName]:
    """Return what each image is called.

    Raises:
        UsageError: that has to be said, or makes no sense.
        ArchiveInvalid: an image's name cannot be.
    """
    if given is None:
        return [_own_name(entry, config) for entry in entries]
    if len(entries) != 1:
        raise UsageError(f"--as names one image, and the archive has {len(entries)}")
    try:
        return [_checked(given, entries[0], config)]
    except MirrorError as error:
        raise UsageError(f"--as: {error}") from error


def _own_name(entry: Entry, config: Config) -> ImageName:
    name = entry.name
    if name is None or not set(name) & set("/:@"):
        said = "has no name" if name is None else f"is called {quote(name)} only"
        raise UsageError(f"an image of the archive {said}; say what it is: --as docker.io/library/alpine:3.20")
    return _checked(name, entry, config)


def _checked(text: str, entry: Entry, config: Config) -> ImageName:
    try:
        name = image_names(config).parse(text)
    except InvalidRequest as error:
        raise ArchiveInvalid(f"the archive's image name cannot be: {error}") from error
    upstream = config.upstreams.get(name.repository.upstream)
    if upstream is None:
        raise ArchiveInvalid(
            f"{name} could not be served: {quote(name.repository.upstream)} is not an upstream of this configuration;"
            " add its table, or say another name with --as"
        )
    if not upstream.rules.permit(name.repository.name):
        raise ArchiveInvalid(f"{name} could not be served: this mirror is configured to deny it")
    if isinstance(name.reference, Digest) and name.reference != entry.descriptor.digest:
        raise ArchiveInvalid(f"the archive calls {entry.descriptor.digest} {name}")
    return ImageName(name.repository, name.reference_or_latest)


# ---- what is brought in


async def _admit(
    config: Config, layout: Layout, arrivals: Arrivals, entries: Sequence[Entry], names: Sequence[ImageName]
) -> Sequence[StoredImage]:
    brought = BroughtImages(arrivals)
    images = [await brought.find(name, entry.descriptor) for name, entry in zip(names, entries, strict=True)]
    contents = dict.fromkeys(digest for image in images for digest in (*image.closure.manifests, *image.closure.blobs))
    new_bytes = arrivals.new_bytes(contents)
    if config.cache.max_size_bytes and new_bytes > config.cache.max_size_bytes:
        limit = format_bytes(config.cache.max_size_bytes)
        raise StorageError(f"the archive has {format_bytes(new_bytes)}, and cache.max_size is {limit}")
    arrivals.keep(contents)
    index = DiskIndex(layout.index)
    try:
        admission = Admission(index, time.time)
        for image in images:
            await admission.admit(image, arrivals)
    finally:
        index.close()
    return images


def _say(images: Sequence[StoredImage], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps({"images": [describe(image) for image in images]}, indent=2))
        return
    for image in images:
        platforms = ", ".join(map(str, image.closure.platforms))
        print(f"{image.name} {image.closure.root.digest}" + (f" ({platforms})" if platforms else ""))
