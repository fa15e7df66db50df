"""``mirror verify``: hash everything that is stored, now, whether a server runs or not."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mirror.cli.options import add_cache_options, load_cache_config
from mirror.cli.progress import Progress
from mirror.errors import NotStored
from mirror.sizes import format_bytes
from mirror.storage.check import Check
from mirror.storage.files import Layout
from mirror.storage.records import LinkRecords
from mirror.storage.seals import Seals
from mirror.storage.walking import StoredFiles
from mirror.telemetry import logs

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence

    from mirror.oci.digest import Digest
    from mirror.ports import StoredFile

_THREADS: Final = min(4, os.cpu_count() or 1)
_REMOVED: Final = "removed; it is fetched again when somebody asks"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Damage:
    digest: Digest
    size_bytes: int
    what: str


@dataclass(slots=True)
class _Findings:
    files: int = 0
    size_bytes: int = 0
    damaged: list[_Damage] = field(default_factory=list)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("verify", help="hash all that is stored, and remove what is damaged")
    add_cache_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Name each damaged file and the repositories that hold it; 1 if there is any.

    A running server need not be told: it finds the name gone, and fetches the blob for whoever asks next.

    Raises:
        ConfigError: the configuration cannot be used.
        NotStored: there is no cache.
    """
    logs.silence()
    layout = Layout(load_cache_config(options).cache.dir)
    if not layout.blobs.is_dir():
        raise NotStored(f"nothing is cached in {layout.root}; name the mirror's configuration by --config")
    findings = _verify(layout)
    holders = LinkRecords(layout).holders({one.digest for one in findings.damaged}) if findings.damaged else {}
    _say(findings, {digest: [str(one) for one in found] for digest, found in holders.items()}, is_json=options.json)
    return 1 if findings.damaged else 0


def _verify(layout: Layout) -> _Findings:
    """Hash shelf by shelf, so that the names of one are in memory and not those of all."""
    stored, findings = StoredFiles(layout), _Findings()
    shelves = stored.list_shelves()
    total_bytes = sum(file.size_bytes for shelf in shelves for file in stored.list_shelf(shelf).values())
    with Progress() as progress, ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as pool:
        hashed, seals = progress.counter("verifying", total_bytes), Seals()
        for shelf in shelves:
            files = stored.list_shelf(shelf)
            found = pool.map(lambda it: _check(layout, seals, hashed, *it), files.items())
            findings.damaged += (damage for damage in found if damage is not None)
            findings.files += len(files)
            findings.size_bytes += sum(file.size_bytes for file in files.values())
    return findings


def _check(
    layout: Layout, seals: Seals, hashed: Callable[[int], None], digest: Digest, file: StoredFile
) -> _Damage | None:
    try:
        with closing(Check(layout, digest)) as check:
            while size_bytes := check.step():
                hashed(size_bytes)
            if check.settle(seals):
                return None
        what = "still there: it could not be removed" if layout.blob(digest).exists() else _REMOVED
    except FileNotFoundError:  # evicted meanwhile
        return None
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
    return _Damage(digest=digest, size_bytes=file.size_bytes, what=what)


def _say(findings: _Findings, holders: Mapping[Digest, Sequence[str]], *, is_json: bool) -> None:
    damaged = [
        {
            "digest": str(one.digest),
            "size_bytes": one.size_bytes,
            "repositories": holders.get(one.digest, []),
            "what": one.what,
        }
        for one in findings.damaged
    ]
    if is_json:
        found = {"files": findings.files, "size_bytes": findings.size_bytes, "damaged": damaged}
        print(json.dumps(found, indent=2))
        return
    for one in findings.damaged:
        where = ", ".join(holders.get(one.digest, [])) or "no repository"
        print(f"{one.digest}  {format_bytes(one.size_bytes)}  {where}  ({one.what})")
    summary = f"{findings.files} files, {format_bytes(findings.size_bytes)}"
    print(f"{summary}: {len(findings.damaged)} damaged" if findings.damaged else f"{summary}: nothing is damaged")
