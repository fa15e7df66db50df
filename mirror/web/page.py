"""The page at ``/``: how things stand with each upstream. One document, nothing from outside, no script."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final

from mirror import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.ports import UpstreamState

PAGE_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
_REFRESH_SECONDS: Final = 10
_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.25rem; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .4rem .6rem .4rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #8884; }
.bad { color: light-dark(#b00020, #ff8a80); font-weight: 600; }
@media (max-width: 40rem) {
  thead { position: absolute; clip-path: inset(50%); }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid #8884; }
  td { display: block; padding: 0; border: 0; }
  td::before { content: attr(data-label) ": "; opacity: .7; }
}
"""
_COLUMNS: Final = ("Upstream", "State", "Credential", "Rate limit")


def render(upstreams: Sequence[UpstreamState]) -> bytes:
    """Return the page as HTML."""
    rows = "".join(_row(upstream) for upstream in upstreams)
    head = "".join(f'<th scope="col">{column}</th>' for column in _COLUMNS)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>mirror</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="{_REFRESH_SECONDS}">'
        f"<style>{_STYLE}</style></head><body><h1>mirror {escape(__version__)}</h1>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        '<p>Figures: <a href="/metrics">/metrics</a></p></body></html>\n'
    )
    return page.encode()


def _row(upstream: UpstreamState) -> str:
    cells = (
        (upstream.name, False),
        _describe_state(upstream),
        (upstream.credential, upstream.is_refused),
        _describe_limit(upstream),
    )
    return "<tr>" + "".join(map(_cell, _COLUMNS, cells)) + "</tr>"


def _cell(label: str, content: tuple[str, bool]) -> str:
    text, is_bad = content
    kind = ' class="bad"' if is_bad else ""
    return f'<td data-label="{label}"{kind}>{escape(text)}</td>'


def _describe_state(upstream: UpstreamState) -> tuple[str, bool]:
    if upstream.is_offline:
        return "offline: not asked", False
    if upstream.is_up is None:
        return "not asked yet", False
    return ("answers", False) if upstream.is_up else ("does not answer", True)


def _describe_limit(upstream: UpstreamState) -> tuple[str, bool]:
    """Say what is left, and for how long nothing counted is asked."""
    if upstream.wait_seconds > 0:
        return f"reached; asked again in {math.ceil(upstream.wait_seconds)} s", True
    if upstream.limit is None or upstream.remaining is None:
        return "not told", False
    return f"{upstream.remaining} of {upstream.limit} left", upstream.remaining == 0
