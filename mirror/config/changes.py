"""What a configuration that is taken up while serving changes, and what of it only a restart can change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mirror.config.settings import SECTIONS, Config, Declared, UpstreamConfig, declared
from mirror.config.sources import UPSTREAMS, dotted

_RESTART: Final[Mapping[str, frozenset[str]]] = {
    "server": frozenset({"listen", "metrics_listen", "workers"}),
    "log": frozenset({"level", "format"}),
    "cache": frozenset({"dir"}),
}
"""Keys by section that are used once, before anything is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """``config`` is the new one but for what needs a restart; keys are dotted, and no value is told."""

    config: Config
    taken_up: Sequence[str]
    needing_restart: Sequence[str]


def compare(before: Config, after: Config) -> Changes:
    """Say what is different; secrets are named by their upstream's ``credential`` and not shown."""
    differing = [
        (section, key)
        for section, known in SECTIONS.items()
        for key in _differing(getattr(before, section), getattr(after, section), known)
    ]
    fixed = [one for one in differing if one[1] in _RESTART.get(one[0], ())]
    taken_up = [dotted(one) for one in differing if one not in fixed]
    return Changes(
        config=_keep(before, after),
        taken_up=[*taken_up, *_differing_upstreams(before.upstreams, after.upstreams)],
        needing_restart=[dotted(one) for one in fixed],
    )


def _keep(before: Config, after: Config) -> Config:
    """Return ``after`` with what needs a restart as it was ``before``."""
    kept = {}
    for section, keys in _RESTART.items():
        old = getattr(before, section)
        attributes = {SECTIONS[section][key].attribute for key in keys}
        kept[section] = dataclasses.replace(
            getattr(after, section), **{attribute: getattr(old, attribute) for attribute in attributes}
        )
    changed: dict[str, Any] = kept
    return dataclasses.replace(after, **changed)


def _differing_upstreams(before: Mapping[str, UpstreamConfig], after: Mapping[str, UpstreamConfig]) -> Iterator[str]:
    known = declared(UpstreamConfig)
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            yield dotted((UPSTREAMS, name))
            continue
        for key in _differing(old, new, known):
            yield dotted((UPSTREAMS, name, key))
        if old.credential != new.credential:
            yield dotted((UPSTREAMS, name, "credential"))


def _differing(before: object, after: object, known: Mapping[str, Declared]) -> Iterator[str]:
    for key, one in known.items():
        if getattr(before, one.attribute) != getattr(after, one.attribute):
            yield key
