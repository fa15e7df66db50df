"""What is on the page, part by part; each is a function of the overview that returns HTML."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final

from mirror.sizes import format_bytes
from mirror.web.page import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirror.figures import Overview, Problem, Traffic, Transfer
    from mirror.ports import UpstreamState

_UPSTREAM_COLUMNS: Final = ("Upstream", "State", "Credential", "Rate limit")
_SHOWN_DIGITS: Final = 12


def state(overview: Overview) -> str:
    """Say what is wrong now, or that nothing is."""
    wrong = [
        *(f"{one.name} does not answer." for one in overview.upstreams if one.is_up is False),
        *(f"{one.name} refuses its credential." for one in overview.upstreams if one.is_refused),
        *(f"The rate limit of {one.name} is reached." for one in overview.upstreams if one.wait_seconds > 0),
    ]
    if not wrong:
        return '<p class="good">Nothing is wrong now.</p>'
    return "".join(f'<p class="bad">{escape(one)}</p>' for one in wrong)


def savings(overview: Overview) -> str:
    """Say what it has saved, and what is stored."""
    history = overview.history
    return (
        _saved("Saved today", history.today)
        + _saved(f"Saved since {words.day(history.since)}", history.life)
        + _rate("Hit rate today", history.today)
        + _rate(f"Hit rate since {words.day(history.since)}", history.life)
        + _stored(overview)
    )


def _tile(title: str, value: str, *notes: str) -> str:
    said = "".join(f"<dd>{note}</dd>" for note in notes)
    return f'<div class="tile"><dt>{escape(title)}</dt><dd class="value">{value}</dd>{said}</div>'


def _saved(title: str, traffic: Traffic) -> str:
    note = f"{format_bytes(traffic.sent_bytes)} sent, {format_bytes(traffic.fetched_bytes)} fetched"
    return _tile(title, format_bytes(traffic.saved_bytes), note)


def _rate(title: str, traffic: Traffic) -> str:
    failed = f'<span class="bad">{words.number(traffic.failures)} failed</span>' if traffic.failures else ""
    asked = f"{words.number(traffic.hits)} of {words.number(traffic.requests)} requests"
    return _tile(title, words.share(traffic.hit_rate), asked, *([failed] if failed else []))


def _stored(overview: Overview) -> str:
    totals, limit_bytes = overview.totals, overview.limit_bytes
    objects = sum(totals.objects.values())
    notes = [f"{words.number(objects)} manifests and blobs"]
    if limit_bytes:
        notes.append(
            f"of at most {format_bytes(limit_bytes)} "
            f'<meter min="0" max="{limit_bytes}" value="{totals.size_bytes}" aria-label="Stored"></meter>'
        )
    return _tile("Stored", format_bytes(totals.size_bytes), *notes)


def downloads(overview: Overview) -> str:
    """Show how far each download has come."""
    if not overview.transfers:
        return '<p class="none">Nothing is being fetched.</p>'
    return f"<ul>{''.join(map(_download, overview.transfers))}</ul>"


def _download(transfer: Transfer) -> str:
    digest = transfer.digest.partition(":")[2][:_SHOWN_DIGITS]
    bounds = "" if transfer.size_bytes is None else f' max="{transfer.size_bytes}" value="{transfer.done_bytes}"'
    whole = "" if transfer.size_bytes is None else f" of {format_bytes(transfer.size_bytes)}"
    clients = "no client waits" if not transfer.followers else _counted(transfer.followers, "client")
    facts = [f"{format_bytes(transfer.done_bytes)}{whole}", *_pace(transfer), clients]
    name = f"{transfer.repository} {digest}"
    return (
        f'<li><span class="name">{escape(transfer.repository)} <code>{escape(digest)}</code></span>'
        f'<span class="facts">{" · ".join(facts)}</span>'
        f'<progress{bounds} aria-label="{escape(name)}"></progress></li>'
    )


def _pace(transfer: Transfer) -> list[str]:
    if transfer.bytes_per_second <= 0:
        return []
    pace = [f"{format_bytes(transfer.bytes_per_second)}/s"]
    if transfer.size_bytes is not None:
        left_seconds = (transfer.size_bytes - transfer.done_bytes) / transfer.bytes_per_second
        pace.append(f"{words.duration(math.ceil(left_seconds))} left")
    return pace


def _counted(value: int, noun: str) -> str:
    return f"{words.number(value)} {noun}{'' if value == 1 else 's'}"


def upstreams(overview: Overview) -> str:
    """Tell how things stand with each; those of which there is nothing to tell by their names alone."""
    shown = [one for one in overview.upstreams if one.is_up is not None or one.credential != "none"]
    others = ", ".join(escape(one.name) for one in overview.upstreams if one not in shown)
    table = _table(_UPSTREAM_COLUMNS, map(_upstream, shown)) if shown else ""
    return table + (f'<p class="none">Not asked yet: {others}</p>' if others else "")


def _upstream(upstream: UpstreamState) -> list[tuple[str, str]]:
    return [
        (upstream.name, ""),
        _state_of(upstream),
        (upstream.credential, "bad" if upstream.is_refused else ""),
        _limit_of(upstream),
    ]


def _state_of(upstream: UpstreamState) -> tuple[str, str]:
    if upstream.is_offline:
        return "offline: not asked", ""
    if upstream.is_up is None:
        return "not asked yet", ""
    return ("answers", "good") if upstream.is_up else ("does not answer", "bad")


def _limit_of(upstream: UpstreamState) -> tuple[str, str]:
    """Say what is left, and for how long nothing counted is asked."""
    if upstream.wait_seconds > 0:
        return f"reached; asked again in {math.ceil(upstream.wait_seconds)} s", "bad"
    if upstream.limit is None or upstream.remaining is None:
        return "not told", ""
    return f"{upstream.remaining} of {upstream.limit} left", "" if upstream.remaining else "bad"


def most_pulled(overview: Overview) -> str:
    """List the repositories that were asked for most."""
    rows = [
        [(one.repository, ""), (words.number(one.pulls), "figure"), (format_bytes(one.sent_bytes), "figure")]
        for one in overview.history.most_pulled
    ]
    return _table(("Repository", "Pulls", "Sent"), rows) if rows else '<p class="none">Nothing was pulled yet.</p>'


def largest(overview: Overview) -> str:
    """List the repositories that hold most."""
    rows = [[(one.repository, ""), (format_bytes(one.size_bytes), "figure")] for one in overview.largest]
    return _table(("Repository", "Size"), rows) if rows else '<p class="none">Nothing is stored yet.</p>'


def problems(overview: Overview) -> str:
    """List what went wrong lately, the latest first."""
    found = overview.history.problems
    if not found:
        return '<p class="none">Nothing went wrong.</p>'
    return f"<ol>{''.join(_problem(one, overview.at) for one in found)}</ol>"


def _problem(problem: Problem, now: float) -> str:
    level = "bad" if problem.level != "warning" else "warn"
    times = f" <b>{words.number(problem.times)} times</b>" if problem.times > 1 else ""
    return (
        f'<li>{words.moment(problem.last_at, now)} <span class="{level}">{escape(problem.level)}</span> '
        f"<code>{escape(problem.event)}</code>{times} <span>{escape(problem.facts)}</span></li>"
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[tuple[str, str]]]) -> str:
    """Make a table of texts and classes; the first cell of a row is its header."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, columns, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _cell(column: str, content: tuple[str, str]) -> str:
    text, kind = content
    name, more = ("th", ' scope="row"') if column in {"Upstream", "Repository"} else ("td", "")
    more += f' class="{kind}"' if kind else ""
    return f'<{name}{more} data-label="{escape(column)}">{escape(text)}</{name}>'
