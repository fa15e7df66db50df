"""The table and the picture in docs/performance.md."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from tests.bench.figures import FIGURES, HIGHER, Figure, Results

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
PICTURE = PAGE.with_suffix(".svg")
ORDER = ("mirror", "docker-registry", "drayage", "nginx", "upstream")
_BETWEEN = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
_DRAWN = ("digest", "tag", "blob4", "blob64", "cold", "crowd")
_COLOURS = {"mirror": "#1f6feb", "docker-registry": "#8b949e", "drayage": "#d29922", "nginx": "#2da44e"}
_BAR, _GAP, _LEFT, _WIDTH = 16, 34, 170, 420


def table(results: Results, versions: Mapping[str, str]) -> str:
    """Write everything as Markdown."""
    servers = results.servers(ORDER)
    peers = [name for name in servers if name not in {"mirror", "upstream"}]
    columns = ["", "unit", *servers, *(f"mirror : {name}" for name in peers)]
    rows = [columns, ["---"] * len(columns)]
    for figure in FIGURES:
        ratios = (results.ratio(figure, "mirror", peer) for peer in peers)
        rows.append(
            [
                figure.title,
                figure.unit,
                *(_number(results.median(figure.key, name)) for name in servers),
                *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            ]
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join(
        [
            f"{dt.datetime.now(dt.UTC):%Y-%m-%d}; {_machine()}. {told}.",
            "",
            *lines,
            "",
            "A ratio above 1 is in the mirror's favour.",
            *(f"\n{note}" for note in results.notes),
            "",
        ]
    )


def write(results: Results, versions: Mapping[str, str]) -> None:
    """Put table and picture into the documentation."""
    page = PAGE.read_text(encoding="utf-8")
    text = table(results, versions)
    PAGE.write_text(_BETWEEN.sub(lambda match: f"{match[1]}{text}{match[2]}", page), encoding="utf-8")
    PICTURE.write_text(picture(results), encoding="utf-8")


def picture(results: Results) -> str:
    """Draw each figure as bars, the longest of each the best or, in seconds, the slowest."""
    parts: list[str] = []
    top = 10
    for figure in FIGURES:
        if figure.key in _DRAWN:
            parts += _group(results, figure, top)
            top += _GAP + _BAR * len(_values(results, figure))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 110}" height="{top}"'
    style = "<style>text { font: 12px sans-serif; fill: #57606a } .title { font-weight: bold }</style>"
    return "\n".join([f"{head}>", style, *parts, "</svg>", ""])


def _group(results: Results, figure: Figure, top: int) -> list[str]:
    values = _values(results, figure)
    most = max(value for _, value in values)
    better = "more is better" if figure.better == HIGHER else "less is better"
    parts = [f'<text class="title" x="0" y="{top + 12}">{escape(figure.title)}, {figure.unit} ({better})</text>']
    for number, (name, value) in enumerate(values):
        y = top + 18 + number * _BAR
        width = max(1, round(_WIDTH * value / most))
        parts += [
            f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{name}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BAR - 4}" fill="{_COLOURS[name]}"/>',
            f'<text x="{_LEFT + width + 5}" y="{y + 11}">{_number(value)}</text>',
        ]
    return parts


def _values(results: Results, figure: Figure) -> Sequence[tuple[str, float]]:
    found = ((name, results.median(figure.key, name)) for name in _COLOURS)
    return [(name, value) for name, value in found if value is not None]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _machine() -> str:
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = platform.machine() if cpu is None else cpu[1]
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release()}"
