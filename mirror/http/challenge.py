"""``WWW-Authenticate``: how an upstream asks for credentials.

Spec: https://www.rfc-editor.org/rfc/rfc9110.html#section-11.6.1
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mirror.http.syntax import EQUALS, TOKEN, VALUE, unquote

_SEPARATORS: Final = re.compile(r"[\s,;]*+")
_PARAMETER: Final = re.compile(rf"({TOKEN}){EQUALS}({VALUE})", re.DOTALL)
_SCHEME: Final = re.compile(TOKEN)
_TOKEN68: Final = re.compile(r"[ \t]++[A-Za-z0-9._~+/-]++=*+(?=\s*+(?:,|\Z))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way in that an upstream offers: the scheme and the names of its parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read all challenges of all ``WWW-Authenticate`` headers, in their order.

    Commas part challenges as well as parameters, and stand in quoted scopes: what is followed by ``=`` is a parameter
    of the challenge before it, anything else the scheme of a new one. Where the text makes no sense it is skipped; of
    a parameter that is there twice the first is taken.
    """
    return [challenge for header in headers for challenge in _parse(header)]


def _parse(header: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(header):
        position = _match_end(_SEPARATORS, header, position)
        if parameter := _PARAMETER.match(header, position):
            if found:
                found[-1][1].setdefault(parameter[1].lower(), unquote(parameter[2]))
            position = parameter.end()
        elif scheme := _SCHEME.match(header, position):
            found.append((scheme[0].lower(), {}))
            position = _match_end(_TOKEN68, header, scheme.end())
        else:
            position += 1
    return [Challenge(scheme=scheme, parameters=parameters) for scheme, parameters in found]


def _match_end(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Return where a match that starts at a position ends; the position itself where there is none."""
    match = pattern.match(text, position)
    return match.end() if match else position
