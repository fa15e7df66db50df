"""Programs that a test puts on the PATH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def write_program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a shell script, and let it be found before all others."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    path = programs / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    if str(programs) not in os.environ["PATH"].split(":"):
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return path
