"""``mirror`` as its users call it: commands beside a server or without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirror.cli.control import Control
from mirror.config import load
from tests.support.mirrors import MirrorProcess

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST_SECONDS = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command has said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:  # noqa: ANN401 - JSON
        """What it printed as JSON, having ended well."""
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


def run_command(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> Finished:
    """Run ``mirror`` in a folder, with nothing of the tests' own environment that it would read."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MIRROR_", "DOCKER_"))}
    done = subprocess.run(
        [sys.executable, "-m", "mirror", *arguments],
        cwd=folder,
        env={**inherited, "HOME": str(folder), "PYTHONPATH": str(_ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=_LONGEST_SECONDS,
        check=False,
    )
    return Finished(code=done.returncode, out=done.stdout, err=done.stderr)


def control(mirror: MirrorProcess, operation: str, **arguments: object) -> tuple[Any, list[Any]]:
    """Do what a command does to ask, in this process: return the result, and what was told on the way.

    Raises:
        MirrorError: as the command would say.
    """
    config = load(path=mirror.folder / "mirror.toml", environ={}, overrides={"cache.dir": str(mirror.cache_folder)})
    told: list[Any] = []
    return Control(config).ask(operation, arguments, progress=told.append), told


def ask(mirror: MirrorProcess, command: str, *arguments: str) -> Finished:
    """Run a command about the cache of a mirror, whether it runs or not."""
    where = ("--config", str(mirror.folder / "mirror.toml"), "--cache-dir", str(mirror.cache_folder))
    return run_command(command, *where, *arguments, folder=mirror.folder)
