"""Where settings come from: the file, environment variables, flags. Each yields entries: a key and what was written."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mirror.config.settings import BUILT_IN, SECTIONS
from mirror.errors import ConfigError, quote

Key = tuple[str, ...]
"""``("cache", "dir")``, or ``("upstreams", "docker.io", "default")``."""

UPSTREAMS: Final = "upstreams"
BUILT_IN_PLACE: Final = "built in"
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PREFIX: Final = "MIRROR_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One setting as it was written; ``place`` is the file, the variable or the flag."""

    key: Key
    written: object
    place: str
    is_text: bool = False
    """Whether it comes from a place where everything is text, so that numbers and lists are too."""

    def fault(self, reason: str) -> ConfigError:
        """Return the error that says what is wrong with it."""
        return refusal(self.place, f"{dotted(self.key)} {reason}")


def refusal(place: str, reason: str) -> ConfigError:
    """Return the error whose message is one line, whatever characters the place's name has."""
    return ConfigError(f"{place if place.isprintable() else quote(place)}: {reason}")


def dotted(key: Key) -> str:
    """Return the key as TOML writes it, on one line: ``upstreams."docker.io".default``."""
    return ".".join(part if _BARE.fullmatch(part) else f'"{quote(part)[1:-1]}"' for part in key)


def built_in() -> Iterator[Entry]:
    """Return the upstreams that need no configuration."""
    for name, table in BUILT_IN.items():
        for key, value in {"enabled": True, **table}.items():
            yield Entry(key=(UPSTREAMS, name, key), written=value, place=BUILT_IN_PLACE)


class File:
    """A configuration file, read when it is made.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """

    def __init__(self, path: Path) -> None:
        """Read the file and, at the same moment, who else may read it."""
        self.place = str(path)
        try:
            with path.open("rb") as file:
                self._is_private = not os.fstat(file.fileno()).st_mode & (stat.S_IRGRP | stat.S_IROTH)
                self._tables = tomllib.loads(file.read().decode())
        except OSError as error:
            raise refusal(self.place, f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise refusal(self.place, f"is not UTF-8 text (at line {line})") from error
        except (ValueError, RecursionError) as error:  # TOMLDecodeError says the line; integers and nesting have limits
            raise refusal(self.place, f"is not TOML: {error}") from error

    def entries(self) -> Iterator[Entry]:
        """Return what the file sets; a table in an unknown place is an entry too, for the loader to refuse."""
        for section, table in self._tables.items():
            if section == UPSTREAMS:
                for name, value in self._table((UPSTREAMS,), table).items():
                    upstream = self._table((UPSTREAMS, name), value)
                    # a table adds an upstream even when it is empty
                    yield from self._entries((UPSTREAMS, name), {"enabled": True, **upstream})
            elif section in SECTIONS:
                yield from self._entries((section,), self._table((section,), table))
            else:
                yield from self._entries((), {section: table})

    def _entries(self, parents: Key, table: Mapping[str, object]) -> Iterator[Entry]:
        for key, value in table.items():
            entry = Entry(key=(*parents, key), written=value, place=self.place)
            if key == "password" and value and not self._is_private:
                raise entry.fault("is refused in a file that others can read; chmod 600 it, or use password_file")
            yield entry

    def _table(self, key: Key, value: object) -> dict[str, object]:
        if isinstance(value, dict):
            return value
        raise refusal(self.place, f"{dotted(key)} must be a table")


def environment(environ: Mapping[str, str], upstreams: Collection[str]) -> Iterator[Entry]:
    """Return what ``MIRROR_SECTION__KEY`` and ``MIRROR_UPSTREAMS__NAME__KEY`` set.

    Other variables that begin with ``MIRROR_`` are somebody else's: Kubernetes makes ``MIRROR_PORT`` and the like for a
    service called ``mirror``.
    """
    for variable, text in environ.items():
        first, separator, rest = variable.removeprefix(_PREFIX).partition("__")
        if not variable.startswith(_PREFIX) or not separator:
            continue
        key: Key = (first.lower(), rest.lower())
        name, separator, last = rest.rpartition("__")
        if key[0] == UPSTREAMS and separator:
            key = (UPSTREAMS, _upstream_called(name, upstreams, variable), last.lower())
        yield Entry(key=key, written=text, place=variable, is_text=True)


def flags(overrides: Mapping[str, object]) -> Iterator[Entry]:
    """Return what dotted keys set; ``None`` is a flag that was not given."""
    for name, value in overrides.items():
        section, _, rest = name.partition(".")
        upstream, separator, key = rest.rpartition(".")  # an upstream's name has dots of its own
        flag = "--" + name.removeprefix("server.").replace(".", "-").replace("_", "-")
        if value is not None:
            path = (section, upstream, key) if separator else (section, rest)
            yield Entry(key=path, written=value, place=flag, is_text=isinstance(value, str))


def _upstream_called(text: str, upstreams: Collection[str], variable: str) -> str:
    """Find whose name is meant, as variables can rarely have dots in theirs: ``DOCKER_IO`` is ``docker.io``."""
    if text in upstreams:
        return text
    meant = [name for name in upstreams if re.sub(r"[^A-Z0-9]", "_", name.upper()) == text]
    if len(meant) > 1:
        raise refusal(variable, f"may mean {' or '.join(sorted(meant))}; set it in the file")
    if not meant and text != text.lower():
        raise refusal(variable, "names no upstream; add its table to the file first")
    return meant[0] if meant else text
