"""What is shipped for Prometheus and Grafana speaks of metrics that there are, and of pages that explain it."""

from __future__ import annotations

import json
import re

import pytest

from grafana.dashboard import ROWS
from grafana.layout import dashboard
from tests.unit.test_docs import _ROOT, exported, slugs

_RULES = (_ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
_ALERTS = _ROOT / "docs" / "alerts.md"
_OF_PROMETHEUS = frozenset({"job", "instance"})
_EXPRESSIONS = [query.expression for row in ROWS for panel in row.panels for query in panel.queries]


def test_the_dashboard_is_what_its_source_makes() -> None:
    """``make dashboard`` writes it anew."""
    kept = (_ROOT / "grafana" / "dashboards" / "mirror.json").read_text(encoding="utf-8")
    assert json.loads(kept) == json.loads(json.dumps(dashboard(ROWS)))


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(ROWS)["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert taken.isdisjoint(cells), panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


@pytest.mark.parametrize("text", [*_EXPRESSIONS, _RULES], ids=[*(text[:50] for text in _EXPRESSIONS), "alerts"])
def test_an_expression_names_metrics_and_labels_that_there_are(text: str) -> None:
    metrics = exported()
    for name, matchers in re.findall(r"\b(mirror_\w+)(?:\{([^}]*)\})?", text):
        _, labels = metrics[name.removesuffix("_bucket")]
        assert set(re.findall(r"(\w+)[!=]=?~?\"", matchers)) <= labels | _OF_PROMETHEUS, name
    assert re.search(r"\bmirror_", text)


def test_each_alert_has_a_section_that_says_what_to_do_and_no_other_has() -> None:
    names = re.findall(r"- alert: (\w+)", _RULES)
    assert names
    assert re.findall(r"runbook: docs/alerts\.md#(\w+)", _RULES) == [name.lower() for name in names]
    assert {name.lower() for name in names} <= slugs(_ALERTS)
    assert re.findall(r"^### (\w+)$", _ALERTS.read_text(encoding="utf-8"), re.MULTILINE) == names


def test_grafana_is_told_where_the_dashboard_is() -> None:
    provisioning = _ROOT / "grafana" / "provisioning"
    provider = (provisioning / "dashboards" / "mirror.yml").read_text(encoding="utf-8")
    source = (provisioning / "datasources" / "prometheus.yml").read_text(encoding="utf-8")
    assert re.search(r"^ +path: /var/lib/grafana/dashboards\b", provider, re.MULTILINE)
    assert "/var/lib/grafana/dashboards" in _ALERTS.read_text(encoding="utf-8")
    assert re.search(r"^ +type: prometheus$", source, re.MULTILINE)
