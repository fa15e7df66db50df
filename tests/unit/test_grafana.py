"""The dashboard is made of what Grafana knows: its own types, as Grafana publishes them, of panels and queries as well.

Grafana itself is not to be had here.
"""

from __future__ import annotations

import copy
import json
import types
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

_PAGE = Path(__file__).resolve().parents[2] / "grafana" / "dashboards" / "mirror.json"
_PANEL = ("panels", 10)  # the first that shows series
JSON = dict[str, Any]


@pytest.fixture(scope="module")
def kept() -> JSON:
    plugins.register_default_plugins()
    read: JSON = json.loads(_PAGE.read_text(encoding="utf-8"))
    return read


def complaints(document: JSON) -> list[str]:
    """Return what Grafana would leave out, and what is of another type than it expects."""
    dashboard = Dashboard.from_json(document)
    known = json.loads(JSONEncoder(sort_keys=True).encode(dashboard))
    return [*_left_out(document, known, ""), *_misfits(dashboard, Dashboard, "")]


def _left_out(given: object, known: object, place: str) -> Iterator[str]:
    match given, known:
        case dict(), dict():
            for key, value in given.items():
                yield from _left_out(value, known.get(key), f"{place}.{key}")
        case list(), list() if len(given) == len(known):
            for number, (one, other) in enumerate(zip(given, known, strict=True)):
                yield from _left_out(one, other, f"{place}.{number}")
        case _ if given != known:
            yield f"{place} is unknown: {given!r}"


def _misfits(value: object, hint: Any, place: str) -> Iterator[str]:  # noqa: ANN401 - a type, of any kind
    match typing.get_origin(hint):
        case typing.Union | types.UnionType:
            arms = [arm for arm in typing.get_args(hint) if (value is None) == (arm is types.NoneType)]
            found = [list(_misfits(value, arm, place)) for arm in arms]
            yield from min(found, key=len, default=[f"{place} is nothing"])
        case typing.Literal:
            yield from [] if value in typing.get_args(hint) else [f"{place} is none of {hint}: {value!r}"]
        case kind if kind in {list, dict} and isinstance(value, kind):
            for key, each in value.items() if isinstance(value, dict) else enumerate(value):
                yield from _misfits(each, typing.get_args(hint)[-1], f"{place}.{key}")
        case None if hint is not Any:
            yield from _misfits_of_class(value, hint, place)


def _misfits_of_class(value: object, kind: type[Any], place: str) -> Iterator[str]:
    if isinstance(value, dict) and hasattr(kind, "from_json"):
        value = kind.from_json(value)  # Grafana's reader leaves some within a list as they are
    if issubclass(kind, Enum):
        yield from [] if value in list(kind) else [f"{place} is none of {[*map(str, kind)]}: {value!r}"]
    elif not isinstance(value, (int, float) if kind is float else kind):
        yield f"{place} is no {kind.__name__}: {value!r}"
    elif hasattr(kind, "__annotations__") or hasattr(value, "from_json"):
        hints = typing.get_type_hints(type(value))
        for name, each in vars(value).items():
            yield from _misfits(each, hints[name], f"{place}.{name}")


def test_the_dashboard_is_of_grafanas_own_types(kept: JSON) -> None:
    assert complaints(kept) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("refresch",), "30s"),
        (("graphTooltip",), 7),
        (("templating", "list", 1, "multi"), "yes"),
        ((*_PANEL, "gridPos", "w"), "wide"),
        ((*_PANEL, "targets", 0, "legend"), "{{outcome}}"),
        ((*_PANEL, "options", "tooltip", "mode"), "every"),
        ((*_PANEL, "fieldConfig", "defaults", "custom", "stacking", "mode"), "stack"),
        ((*_PANEL, "fieldConfig", "defaults", "unitt"), "bytes"),
    ],
    ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else None,
)
def test_what_grafana_does_not_know_is_found(kept: JSON, path: tuple[str | int, ...], value: object) -> None:
    changed = copy.deepcopy(kept)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert complaints(changed)
