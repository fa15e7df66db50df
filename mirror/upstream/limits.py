"""Rate limits that upstreams announce."""

from __future__ import annotations

import re

_COUNT = re.compile(r"\s*([0-9]{1,12})\s*(?:;.*)?", re.ASCII)


def read_limit(text: str | None) -> int | None:
    """Read Docker Hub's ``100;w=21600``: requests, then the window in seconds, which is only for people."""
    match = None if text is None else _COUNT.fullmatch(text)
    return None if match is None else int(match.group(1))
