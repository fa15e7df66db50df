"""The page as one document: nothing from outside, its own style and script allowed by their hashes.

The script asks for the page again every two seconds and puts the parts in that have changed, so that each part is made
in one place, and a browser without scripts gets the same by loading anew.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from mirror.web.page import chart, sections, words

if TYPE_CHECKING:
    from mirror.figures import Overview

_RELOAD_SECONDS: Final = 10
_STYLE: Final = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
_SCRIPT: Final = files(__package__).joinpath("page.js").read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return how a policy names an inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


PAGE_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# an empty picture, so that browsers do not ask for /favicon.ico
_HEAD: Final = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
    f'<noscript><meta http-equiv="refresh" content="{_RELOAD_SECONDS}"></noscript>'
    f"<title>mirror</title><style>{_STYLE}</style>"
)


def render(overview: Overview) -> bytes:
    """Return the page as HTML."""
    version = escape(overview.version)
    now = words.moment(overview.at, overview.at)
    processes = "1 worker" if overview.workers == 1 else f"{overview.workers} workers"
    page = (
        f'<!doctype html><html lang="en" data-version="{version}"><head>{_HEAD}</head><body>'
        f"<header><h1>mirror <small>{version}</small></h1><p>{_live('now', f'{processes}, {now}')}</p>"
        '<p id="lost" role="status" class="bad" hidden>The mirror does not answer. These are its last figures.</p>'
        f'<div aria-live="polite">{_live("state", sections.state(overview))}</div></header><main>'
        f'<dl id="savings" data-live aria-label="Savings">{sections.savings(overview)}</dl>'
        f"{_rate_over_time(overview)}"
        f"{_section('downloads', 'Downloads', sections.downloads(overview))}"
        f"{_section('upstreams', 'Upstreams', sections.upstreams(overview))}"
        f"{_section('pulled', 'Most pulled', sections.most_pulled(overview))}"
        f"{_section('largest', 'Largest', sections.largest(overview))}"
        f"{_section('problems', 'Recent problems', sections.problems(overview))}"
        '</main><footer>For programs: <a href="metrics">metrics</a>, <a href="api/v1/overview">overview</a></footer>'
        f"<script>{_SCRIPT}</script></body></html>\n"
    )
    return page.encode()


def _live(name: str, content: str) -> str:
    """Make a part that the script replaces when it has changed."""
    return f'<div id="{name}" data-live>{content}</div>'


def _section(name: str, title: str, content: str) -> str:
    return (
        f'<section class="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>'
        f"{_live(name, content)}</section>"
    )


def _rate_over_time(overview: Overview) -> str:
    """Show one of two charts; which, is chosen by radio buttons, which need no script."""
    choices = "".join(
        f'<input type="radio" name="scale" id="of-{scale.id}"{" checked" if scale is chart.MINUTES else ""}>'
        f'<label for="of-{scale.id}">{scale.title}</label>'
        for scale in (chart.MINUTES, chart.HOURS)
    )
    history = overview.history
    minutes = chart.render(chart.MINUTES, history.minutes, overview.at)
    hours = chart.render(chart.HOURS, history.hours, overview.at)
    return (
        '<section class="rate" aria-labelledby="rate-title"><h2 id="rate-title">Hit rate over time</h2>'
        f"{choices}{_live('minutes', minutes)}{_live('hours', hours)}</section>"
    )
