"""Each block of README.md and docs/ is run by a test; those that only show something show what is there."""

from __future__ import annotations

import re
import subprocess

import pytest

from mirror.cli.main import make_parser
from tests.support.snippets import ROOT, Snippet, claims, matching, snippet, snippets

_COMMAND = re.compile(r"(?:^|[ /$])mirror ([a-z-]+(?: [^|#;]+)?)")
_LANGUAGES = {"sh", "console", "toml", "yaml", "json", ""}
_PER_PAGE = {page.relative_to(ROOT): page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}


def test_each_snippet_is_claimed_by_a_test() -> None:
    claimed = {str(one) for claim in claims() for one in matching(*claim)}
    unclaimed = [f"{one} {one.text}" for one in snippets() if str(one) not in claimed]
    assert unclaimed == [], "let a test run it, and say so by calling tests.support.snippets.snippet"


def test_each_claim_is_about_one_snippet() -> None:
    assert [claim for claim in claims() if len(matching(*claim)) != 1] == []


def test_none_is_overlooked() -> None:
    for page, text in _PER_PAGE.items():
        fences = len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE))
        assert fences == 2 * len([one for one in snippets() if one.page == str(page)]), page


@pytest.mark.parametrize("one", snippets(), ids=str)
def test_it_is_in_a_language_that_a_test_can_run(one: Snippet) -> None:
    assert one.language in _LANGUAGES
    if one.language == "sh":
        subprocess.run(["bash", "-n", "-c", one.text], check=True)


# --- drawings


def test_the_way_of_a_request_names_parts_that_there_are() -> None:
    drawing = snippet("docs/architecture.md", "client ──►")
    for name in ("web", "engine", "policy", "upstream"):
        assert re.search(rf"\b{name}\b", drawing.text)
        assert (ROOT / "mirror" / name).is_dir() or (ROOT / "mirror" / f"{name}.py").is_file()


def test_the_tree_of_modules_is_that_of_the_package() -> None:
    drawing = snippet("docs/architecture.md", "mirror/")
    drawn = set(re.findall(r"^[├└]── (\w+(?:/|\.py))", drawing.text, re.MULTILINE))
    package = ROOT / "mirror"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert drawn == folders | modules


# --- what no machine of the tests can run


def test_the_builder_is_given_a_file_that_the_page_shows() -> None:
    """Debian's docker.io comes without buildx, so the command is only parsed: it names the file shown above it."""
    command = snippet("docs/clients.md", "docker buildx create --use --buildkitd-config buildkitd.toml")
    assert command.text.split()[-1] == "buildkitd.toml"


# --- what is written within the text


def commands_named() -> list[tuple[str, str]]:
    """Return page and words of each `mirror …` that is set as code, within the text or in a block."""
    found = []
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        code = [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
        code += [line for block in re.findall(r"```(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        found += [(page.name, words) for line in code for words in _COMMAND.findall(line)]
    return found


def test_each_command_and_option_that_a_page_names_exists() -> None:
    (commands,) = [one.choices for one in make_parser()._actions if isinstance(one.choices, dict)]  # noqa: SLF001 - argparse tells it nowhere else
    named = [(page, words) for page, words in commands_named() if words.split()[0] in commands]
    assert {words.split()[0] for _, words in named} == set(commands)
    for page, words in named:
        options = commands[words.split()[0]]._option_string_actions  # noqa: SLF001 - as above
        used = {word.partition("=")[0] for word in words.split()[1:] if re.match(r"--?[a-z]", word)}
        assert used <= set(options), f"{page}: mirror {words}"
