"""Looking a key up among those declared in `mirror.config.settings`, and saying which one may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from mirror.config import values
from mirror.config.settings import DOCKER_HUB, SECTIONS, UPSTREAM, Declared
from mirror.config.sources import UPSTREAMS, Entry, Key, dotted, refusal
from mirror.errors import ConfigError


def every_key() -> Iterator[tuple[str, str, Declared]]:
    """Return section, key and declaration of all that can be set."""
    for section, known in (SECTIONS | {UPSTREAMS: UPSTREAM}).items():
        for key, declaration in known.items():
            yield section, key, declaration


def find(entry: Entry) -> Declared:
    """Return the declaration of an entry's key.

    Raises:
        ConfigError: there is no such setting.
    """
    section, *rest = entry.key
    if section == UPSTREAMS and len(rest) == 2:  # noqa: PLR2004 - a name and a key
        return _find_in_upstream(entry)
    known = SECTIONS.get(section, {})
    if len(rest) == 1 and rest[0] in known:
        return known[rest[0]]
    if known:
        raise _unknown(entry, entry.key, {key: (section, key) for key in known})
    if section == UPSTREAMS:
        raise entry.fault("is not a setting; the name of an upstream stands before the key")
    # a section misspelt, or a key of a section written outside it
    candidates: dict[str, Key] = {key: (name, key) for name, keys in SECTIONS.items() for key in keys}
    candidates |= {name: (name,) for name in (*SECTIONS, UPSTREAMS)}
    raise _unknown(entry, (section,), candidates)


def _find_in_upstream(entry: Entry) -> Declared:
    _, name, key = entry.key
    try:
        values.UPSTREAM_NAME.read(name)
    except values.Unfit as error:
        raise refusal(entry.place, f"{dotted((UPSTREAMS, name))} {error}") from error
    if key not in UPSTREAM:
        raise _unknown(entry, entry.key, {known: (UPSTREAMS, name, known) for known in UPSTREAM})
    if key == "search_endpoint" and name != DOCKER_HUB:
        raise entry.fault(f"is a setting of {DOCKER_HUB} only")
    return UPSTREAM[key]


def _unknown(entry: Entry, key: Key, candidates: Mapping[str, Key]) -> ConfigError:
    near = difflib.get_close_matches(key[-1], candidates, n=1)
    hint = f"did you mean {dotted(candidates[near[0]])}?" if near else f"known here: {', '.join(candidates)}"
    return refusal(entry.place, f"{dotted(key)} is not a setting; {hint}")
