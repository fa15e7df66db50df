from __future__ import annotations

import argparse
import ast
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import mirror
from mirror.cli.main import make_parser
from mirror.http.cache_status import Outcome, cache_status
from mirror.oci.error_codes import ErrorCode
from mirror.oci.requests import Kind
from mirror.ports import Totals
from mirror.telemetry.metrics import NO_UPSTREAM, Metrics, render

_ROOT = Path(__file__).parents[2]
_METRICS = _ROOT / "docs" / "metrics.md"
_CLIENTS = _ROOT / "docs" / "clients.md"
_PAGES = (_ROOT / "README.md", _ROOT / "CHANGELOG.md", *sorted((_ROOT / "docs").glob("*.md")))
_CODE = re.compile(r"`([^`]+)`")
_EVENT = re.compile(r"[a-z_]+\.[a-z_]+")
_LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}


@dataclass(frozen=True, slots=True)
class Event:
    """What is logged: the level and the keys."""

    level: str
    keys: frozenset[str]


# --- reading the pages ---


def tables(page: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Return the rows of every table on a page that has these columns."""
    header: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not header:
            header = cells
        elif set(columns) <= set(header) and not set(cells[0]) <= {"-", " "}:
            yield dict(zip(header, cells, strict=True))


def codes(cell: str) -> list[str]:
    """Return what is set as code in a cell."""
    return _CODE.findall(cell)


def snippets(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- reading the program ---


def exported() -> dict[str, tuple[str, frozenset[str]]]:
    """Return type and labels of every metric there is, after everything has happened once."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.begin(["docker.io"])
    metrics.answered(
        upstream="docker.io", kind=Kind.BLOB, outcome=Outcome.HIT, code=200, size_bytes=1, first_byte_seconds=[0.1]
    )
    metrics.upstream_answered("docker.io", Kind.BLOB, "GET", "200", 0.1)
    metrics.upstream_sent("docker.io", Kind.BLOB, 1)
    metrics.upstream_up("docker.io", is_up=True)
    metrics.limit_seen("docker.io", 100, 99)
    totals = Totals(size_bytes=1, objects={Kind.BLOB: 1})
    text = render(registry, shared_folder=None, totals=totals, limit_bytes=0).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        assert family.samples, f"{family.name}: let it happen here"
        labels = frozenset(family.samples[0].labels) - {"le"}
        found[family.name + ("_total" if family.type == "counter" else "")] = (family.type, labels)
    return found


def logged() -> dict[str, Event]:
    """Return every event that the source logs, with the keys of all its places."""
    found: dict[str, Event] = {}
    for path in Path(mirror.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for name, event in events_of(function, tree):
                    known = found.setdefault(name, event)
                    assert known.level == event.level, f"{name} is logged at two levels"
                    found[name] = Event(event.level, known.keys | event.keys)
    return found


def events_of(function: ast.FunctionDef | ast.AsyncFunctionDef, tree: ast.Module) -> Iterator[tuple[str, Event]]:
    """Return what one function logs; the keys of ``**facts`` are in its dictionaries and its methods'."""
    for call in ast.walk(function):
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=method), args=[ast.Constant(value=str(name))]
            ):
                keys = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
                if any(keyword.arg is None for keyword in call.keywords):
                    keys |= keys_of_dictionaries(function)
                    for helper in methods_called_by(function, tree):
                        keys |= keys_of_dictionaries(helper)
                if method == "exception" or "exc_info" in keys:
                    keys = (keys - {"exc_info"}) | {"exception"}  # as format_exc_info writes it
                yield name, Event(_LEVELS[method], frozenset(keys))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=method)) if method in _LEVELS:
                pytest.fail(f"{function.name} logs something else than a constant event")


def methods_called_by(function: ast.AST, tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Return the methods of the same module that a function calls on itself."""
    called = {
        call.func.attr
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "self"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in called:
            yield node


def keys_of_dictionaries(function: ast.AST) -> set[str]:
    """Return the constant keys of every dictionary that is written out in a function."""
    return {
        key.value
        for node in ast.walk(function)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    }


# --- metrics and logs ---


def test_each_metric_is_documented_with_its_type_and_labels_and_no_other_is() -> None:
    rows = list(tables(_METRICS, "name", "type", "labels"))
    documented = {codes(row["name"])[0]: (row["type"], frozenset(codes(row["labels"]))) for row in rows}
    assert documented == exported()
    assert len(documented) == len(rows)


def test_each_label_and_its_values_are_documented() -> None:
    rows = {codes(row["label"])[0]: codes(row["values"]) for row in tables(_METRICS, "label", "values")}
    assert set(rows) == {label for _, labels in exported().values() for label in labels}
    assert rows["kind"] == [kind.value for kind in Kind]
    assert rows["outcome"] == [*(outcome.value for outcome in Outcome), "none"]
    assert NO_UPSTREAM in rows["upstream"]


def test_each_event_is_documented_with_its_level_and_keys_and_no_other_is() -> None:
    rows = list(tables(_METRICS, "event", "level", "keys"))
    documented = {codes(row["event"])[0]: Event(row["level"], frozenset(codes(row["keys"]))) for row in rows}
    assert documented == logged()
    assert len(documented) == len(rows)


def test_each_event_is_a_noun_and_a_verb() -> None:
    assert [name for name in logged() if _EVENT.fullmatch(name) is None] == []


@pytest.mark.parametrize("page", [_METRICS, _CLIENTS], ids=lambda page: page.name)
def test_each_outcome_is_explained(page: Path) -> None:
    explained = [outcome for row in tables(page, "outcome", "what happened") for outcome in codes(row["outcome"])]
    assert Counter(explained) == Counter(outcome.value for outcome in Outcome)


# --- commands ---


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    actions = parser._actions  # noqa: SLF001 - argparse tells it nowhere else
    return {max(one.option_strings, key=len) for one in actions if one.option_strings} - {"--help"}


def test_each_command_and_option_is_documented() -> None:
    actions = make_parser()._actions  # noqa: SLF001 - as above
    (commands,) = [one.choices for one in actions if isinstance(one.choices, dict)]
    rows = list(tables(_ROOT / "docs" / "commands.md", "command", "options"))
    documented = {codes(row["command"])[0]: set(codes(row["options"])) for row in rows}
    assert documented == {name: options_of(parser) for name, parser in commands.items()}
    assert len(documented) == len(rows)


# --- what clients are told ---


def test_the_cache_status_of_each_outcome_is_written_as_it_is_sent() -> None:
    ttl_seconds = {Outcome.STALE: -37, Outcome.NEGATIVE: 7}
    rows = [row for row in tables(_CLIENTS, "`Cache-Status`", "outcome") if row["outcome"]]
    documented = {codes(row["outcome"])[0]: codes(row["`Cache-Status`"])[0] for row in rows}
    assert documented == {
        outcome.value: cache_status(outcome, ttl_seconds=ttl_seconds.get(outcome)) for outcome in Outcome
    }


def test_the_error_codes_that_are_explained_exist() -> None:
    rows = list(tables(_CLIENTS, "status and code"))
    assert rows
    assert {code for row in rows for code in codes(row["status and code"])} <= set(ErrorCode)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_each_snippet_parses(page: Path) -> None:
    for text in snippets(page, "json"):
        assert json.loads(text)
    for text in snippets(page, "toml"):
        assert tomllib.loads(text)


@pytest.mark.parametrize("page", [_ROOT / "README.md", _CLIENTS], ids=lambda page: page.name)
def test_the_page_has_a_snippet_for_each_client(page: Path) -> None:
    (docker,) = [json.loads(text) for text in snippets(page, "json")]
    assert docker == {
        "registry-mirrors": ["http://mirror.example.net:5000"],
        "insecure-registries": ["mirror.example.net:5000"],
    }
    documents = [tomllib.loads(text) for text in snippets(page, "toml")]
    containerd = [document["host"] for document in documents if "host" in document]
    podman = [document["registry"] for document in documents if isinstance(document.get("registry"), list)]
    buildkit = [document["registry"] for document in documents if isinstance(document.get("registry"), dict)]
    assert containerd
    assert all({"pull", "resolve"} <= set(one["http://mirror.example.net:5000"]["capabilities"]) for one in containerd)
    assert [(one["prefix"], one["mirror"][0]["location"]) for registries in podman for one in registries] == [
        (name, f"mirror.example.net:5000/{name}") for name in ("docker.io", "ghcr.io")
    ]
    assert [one["mirror.example.net:5000"] for one in buildkit] == [{"http": True}]


# --- links ---


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_each_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https://)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.is_file(), target
        assert not anchor or anchor in slugs(linked), target
