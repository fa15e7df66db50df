"""What the headers that hold lists of parameters have in common: tokens, quoted strings, parameters.

The patterns are possessive: a hostile header is read once, whatever it holds.

Spec: https://www.rfc-editor.org/rfc/rfc9110.html#section-5.6
"""

from __future__ import annotations

import re
from typing import Final

TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # noqa: S105 - a pattern, not a password
VALUE: Final = r'"(?:[^"\\]|\\.)*+"|[^\s,;"]*+'
"""Quoted or bare, for `unquote`; needs ``DOTALL``. A bare one may hold more than a token's characters, since registries
send URLs and scopes unquoted."""
EQUALS: Final = r"\s*+=\s*+"

_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def unquote(value: str) -> str:
    """Return a value without its quotes and escapes, or a bare one as it is."""
    if value.startswith('"'):
        return _ESCAPED.sub(r"\1", value[1:-1])
    return value
