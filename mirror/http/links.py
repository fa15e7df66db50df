"""``Link``, as far as the next page of a list needs it.

Spec: https://www.rfc-editor.org/rfc/rfc8288.html#section-3
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urlencode

from mirror.http.syntax import EQUALS, TOKEN, VALUE, unquote

_TARGET: Final = re.compile(r"<([^<>]*+)>")
_PARAMETER: Final = re.compile(rf"\s*+;\s*+(?:({TOKEN})(?:{EQUALS}({VALUE}))?+)?+", re.DOTALL)


def next_page(link_headers: Iterable[str]) -> str | None:
    """Return the target of the first link with ``rel="next"``, as it is written: relative or absolute, and untrusted.

    Text that makes no sense is skipped.
    """
    for header in link_headers:
        position = 0
        while target := _TARGET.search(header, position):
            relations, position = _read_relations(header, target.end())
            if "next" in relations:
                return target[1].strip()
    return None


def render_next(path: str, *, limit: int | None, last: str, namespace: str | None = None) -> str:
    """Write the header that leads to the page after ``last`` of the same ``ns``; ``path`` is the list's, decoded."""
    query = ({} if limit is None else {"n": str(limit)}) | {"last": last} | ({"ns": namespace} if namespace else {})
    return f'<{quote(path)}?{urlencode(query)}>; rel="next"'


def _read_relations(header: str, position: int) -> tuple[list[str], int]:
    """Return the words of a link's first ``rel``, and where its parameters, which start at ``position``, end."""
    relations: list[str] | None = None
    while parameter := _PARAMETER.match(header, position):
        position = parameter.end()
        if relations is None and (parameter[1] or "").lower() == "rel":
            relations = unquote(parameter[2] or "").lower().split()
    return relations or [], position
