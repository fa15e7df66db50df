"""JSON that two readers cannot understand differently.

The registry that accepted a manifest, the client that unpacks it and the mirror that links what it names must see the
same descriptors, or a digest can be smuggled past one of them. Go's reader, which most of the others use, takes the
last of two equal names and does not mind their case; Python's differs in the case.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from mirror.errors import ManifestInvalid, quote


def load_object(body: bytes) -> Mapping[str, object]:
    """Read one JSON object in UTF-8, in which no object has a name twice.

    Raises:
        ManifestInvalid: anything else, deep nesting and numbers of thousands of digits included.
    """
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ManifestInvalid("the JSON is nested too deeply") from None
    except ValueError as error:
        looks_like = "an HTML page" if body.lstrip()[:1] == b"<" else "not JSON"
        raise ManifestInvalid(f"the body is {looks_like}: {error}") from error
    if not isinstance(value, dict):
        raise ManifestInvalid("the body is JSON, but not an object")
    return value


def load_listing(body: bytes) -> dict[str, Any]:
    """Read one JSON object that is handed on as it is understood here, not byte by byte.

    Raises:
        ManifestInvalid: anything else, and what cannot be written again as JSON.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ManifestInvalid("the body is not a JSON object")
    return value


def write_listing(document: object) -> bytes:
    """Write JSON, as short as it gets.

    Raises:
        ManifestInvalid: it is nested too deeply.
    """
    try:
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except RecursionError:
        raise ManifestInvalid("the JSON is nested too deeply") from None


def check_object(value: object, names: frozenset[str], *, what: str) -> Mapping[str, object]:
    """Return an object of parsed JSON, none of whose names differs from one of ``names`` in its case alone.

    Raises:
        ManifestInvalid: something else.
    """
    if not isinstance(value, dict):
        raise ManifestInvalid(f"{what} is not an object")
    folded = {name.casefold() for name in names}
    for name in value:
        if name not in names and name.casefold() in folded:
            raise ManifestInvalid(f"{what} has a name in the wrong case: {quote(name)}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("an object has a name twice")
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
