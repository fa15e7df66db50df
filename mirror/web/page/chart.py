"""The hit rate over time as columns: which part came from the store, and how much was sent; drawn as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from mirror.figures import Traffic
from mirror.sizes import format_bytes
from mirror.web.page import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirror.figures import Span

_COLUMN: Final = 10  # units wide, one of them a gap
_HEIGHT: Final = 100
_VOLUME_HEIGHT: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What a chart shows: so many columns of so many seconds each, up to now."""

    id: str
    title: str
    seconds: int
    columns: int
    unit: str


MINUTES: Final = Scale(id="minutes", title="3 hours", seconds=180, columns=60, unit="3 min")
HOURS: Final = Scale(id="hours", title="7 days", seconds=3 * 3600, columns=56, unit="3 h")


def render(scale: Scale, spans: Sequence[Span], now: float) -> str:
    """Draw a figure; in words for those who cannot see it."""
    columns = _gather(scale, spans, now)
    whole = Traffic()
    for one in columns:
        whole.add(one)
    if not whole.requests:
        return f'<p class="none">Nothing was pulled in the last {scale.title}.</p>'
    peak = max(one.sent_bytes for one in columns)
    said = (
        f"{words.share(whole.hit_rate)} of {words.number(whole.requests)} requests in the last {scale.title} "
        f"were answered from the store"
    )
    width = scale.columns * _COLUMN
    return (
        f'<figure><div class="plot"><div class="axis" aria-hidden="true"><span>100 %</span><span>50 %</span>'
        f"<span>0 %</span></div>"
        f'<svg role="img" aria-label="{escape(said)}" viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none">'
        f'<path class="grid" d="M0 0H{width}M0 50H{width}M0 100H{width}"/>'
        f'<path class="hit" d="{_hits(columns)}"/><path class="miss" d="{_misses(columns)}"/></svg></div>'
        f'<div class="plot volume"><div class="axis" aria-hidden="true"><span>{format_bytes(peak)}</span>'
        f"<span>0 B</span></div>"
        f'<svg role="img" aria-label="At most {format_bytes(peak)} were sent in {scale.unit}" '
        f'viewBox="0 0 {width} {_VOLUME_HEIGHT}" preserveAspectRatio="none">'
        f'<path class="sent" d="{_volumes(columns, peak)}"/></svg></div>'
        f'<div class="ends" aria-hidden="true"><span>{scale.title} ago</span><span>now</span></div>'
        f'<figcaption>{escape(said)}. <span class="key hit">from the store</span> '
        f'<span class="key miss">fetched</span> <span class="key sent">bytes sent in {scale.unit}</span></figcaption>'
        f"</figure>"
    )


def _gather(scale: Scale, spans: Sequence[Span], now: float) -> list[Traffic]:
    """Add up what belongs into each column, the last of which holds this moment."""
    columns = [Traffic() for _ in range(scale.columns)]
    last = int(now) // scale.seconds
    for span in spans:
        place = scale.columns - 1 - (last - int(span.start) // scale.seconds)
        if 0 <= place < scale.columns:
            columns[place].add(span.traffic)
    return columns


def _hits(columns: Iterable[Traffic]) -> str:
    return _bars((n, _HEIGHT - _part(one), _HEIGHT) for n, one in enumerate(columns) if one.hits)


def _misses(columns: Iterable[Traffic]) -> str:
    return _bars((n, 0, _HEIGHT - _part(one)) for n, one in enumerate(columns) if one.hits < one.requests)


def _volumes(columns: Iterable[Traffic], peak: int) -> str:
    heights = ((n, one.sent_bytes * _VOLUME_HEIGHT / peak) for n, one in enumerate(columns) if one.sent_bytes)
    return _bars((n, _VOLUME_HEIGHT - max(1.0, height), _VOLUME_HEIGHT) for n, height in heights)


def _part(traffic: Traffic) -> float:
    return (traffic.hit_rate or 0.0) * _HEIGHT


def _bars(bars: Iterable[tuple[int, float, float]]) -> str:
    """Draw columns by their number, top and foot."""
    return "".join(f"M{n * _COLUMN} {top:.4g}h{_COLUMN - 1}V{foot:.4g}h{1 - _COLUMN}z" for n, top, foot in bars)
