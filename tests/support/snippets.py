"""The fenced blocks of README.md and docs/: each is run by a test, which claims it by calling ``snippet``."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
MIRROR = "mirror.example.net:5000"  # what the pages call the mirror
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LONGEST_SECONDS = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """One block: where it begins, the language behind its fence, and what it says."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def replaced(self, changes: Mapping[str, str]) -> str:
        """Return the text with names that stand for something by what the test has instead; each must be there."""
        text = self.text
        for old, new in changes.items():
            assert old in text, f"{self} does not say {old}"
            text = text.replace(old, new)
        return text


def snippets() -> list[Snippet]:
    """Return all there are."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [found for page in pages for found in _snippets_of(page)]


def snippet(page: str, begins: str) -> Snippet:
    """Claim the one block of a page that begins so, for the test that asks to run it."""
    (found,) = matching(page, begins)
    return found


def matching(page: str, begins: str) -> list[Snippet]:
    """Return the blocks of a page that begin so."""
    return [one for one in snippets() if one.page == page and one.text.startswith(begins)]


def claims() -> set[tuple[str, str]]:
    """Return page and beginning of each block that a test claims, as read from the tests themselves."""
    return {claim for path in TESTS.rglob("test_*.py") for claim in _claims_of(path)}


def run_shell(
    script: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *,
    longest_seconds: float = _LONGEST_SECONDS,
) -> str:
    """Run what a page tells to type, in a folder, with ``mirror`` on the PATH; return what it prints.

    Raises:
        AssertionError: it failed; the text is what it said.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MIRROR_", "DOCKER_"))}
    own = {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**inherited, **own, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=longest_seconds,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def _snippets_of(page: Path) -> Iterator[Snippet]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        yield Snippet(
            page=str(page.relative_to(ROOT)),
            line=text.count("\n", 0, match.start()) + 1,
            language=match[2],
            text=textwrap.dedent(match[3]),
        )


def _claims_of(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    for call in ast.walk(ast.parse(text)) if "snippet(" in text else ():
        match call:
            case ast.Call(
                func=ast.Name(id="snippet"), args=[ast.Constant(value=str(page)), ast.Constant(value=str(begins))]
            ):
                yield page, begins
            case _:
                pass
