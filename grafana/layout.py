"""What a dashboard is made of, and how Grafana writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]
_COLUMNS = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and the legend of its series."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; ``thresholds`` are colours with the value from which they hold."""

    title: str
    says: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    most: float | None = None
    thresholds: Sequence[tuple[str, float | None]] = (("green", None),)


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading, side by side and then below each other."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


def dashboard(rows: Sequence[Row]) -> JSON:
    """Return the dashboard as Grafana reads it."""
    return {
        "uid": "mirror",
        "title": "Mirror",
        "description": "A pull-through caching mirror for container registries: what it saves, and what is wrong.",
        "tags": ["mirror", "registry"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "panels": [{"id": number, **panel} for number, panel in enumerate(_laid_out(rows), 1)],
    }


def _variables() -> Iterator[JSON]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    for name, label, query in (
        ("job", "Job", "label_values(mirror_build_info, job)"),
        ("instance", "Mirror", 'label_values(mirror_build_info{job=~"$job"}, instance)'),
        ("upstream", "Upstream", 'label_values(mirror_requests_total{job=~"$job", instance=~"$instance"}, upstream)'),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _laid_out(rows: Sequence[Row]) -> Iterator[JSON]:
    """Give every panel its place: from left to right, and on to the next line where one does not fit."""
    top = 0
    for row in rows:
        yield {
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
        }
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, height = top + height, 0, 0
            yield _panel(panel) | {"gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height}}
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel) -> JSON:
    steps = [{"color": colour, "value": value} for colour, value in panel.thresholds]
    defaults: JSON = {
        "unit": panel.unit,
        "min": 0,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 60 if panel.stacked else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
        "targets": [_target(panel, number) for number in range(len(panel.queries))],
        **(
            {"transformations": [{"id": "reduce", "options": {"reducers": ["lastNotNull"]}}]}
            if panel.kind == "table"
            else {}
        ),
    }


def _target(panel: Panel, number: int) -> JSON:
    query = panel.queries[number]
    return {
        "refId": chr(ord("A") + number),
        "datasource": _DATASOURCE,
        "expr": query.expression,
        "legendFormat": query.legend,
        "range": True,
    }


def _options(kind: str) -> JSON:
    reduced = {"reduceOptions": {"calcs": ["lastNotNull"], "values": False}}
    match kind:
        case "stat":
            return {**reduced, "colorMode": "value", "graphMode": "area", "textMode": "value"}
        case "bargauge":
            return {**reduced, "displayMode": "basic", "orientation": "horizontal"}
        case "timeseries":
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case _:
            return {}
