"""How values are written: each kind turns what TOML has, or a variable's text, into the type that it has inside."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from mirror.errors import InvalidRequest, quote
from mirror.http.networks import ClientNetwork
from mirror.oci.patterns import RepositoryPattern

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PERCENTAGE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([kKMGT]i?)?B")
_UNIT_POWERS = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4}
_INTEGER = re.compile(r"-?[0-9]{1,15}")
_PORT = re.compile(r"[0-9]{1,5}")
_PORT_LIMIT = 65535
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?")
_HOST_AND_PORT = re.compile(rf"(?P<host>{_HOST.pattern})(?::(?P<port>[0-9]{{1,5}}))?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNIX_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path, less the final NUL
_HUNDRED = 100
_SHOWN_NUMBER_LIMIT = 10**15


class Unfit(ValueError):
    """A value that a setting cannot have; ``str()`` continues the sentence that the setting's name begins."""

    def __init__(self, expected: str, value: object = None) -> None:
        """Say what is expected, and what was there unless it is left out, as what may hold a secret is."""
        super().__init__(f"must be {expected}" + ("" if value is None else f", not {_shown(value)}"))


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of value: ``read`` takes what TOML gives, ``from_text`` makes that of a variable's or a flag's text."""

    read: Callable[[object], T]
    from_text: Callable[[str], object] = str


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (no brackets around IPv6) and a port; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def integer(*, minimum: int) -> Kind[int]:
    """Accept a whole number."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= minimum:
            return value
        raise Unfit(f"a whole number of at least {minimum}", value)

    return Kind(read, from_text=lambda text: int(text) if _INTEGER.fullmatch(text) else text)


def duration(*, positive: bool = False) -> Kind[float]:
    """Accept a number with a unit; inside it is seconds."""
    expected = "a duration such as 90s, 5m, 12h or 7d"

    def read(value: object) -> float:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise Unfit(expected, value)
        seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
        if positive and not seconds:
            raise Unfit(f"{expected}, longer than nothing", value)
        return seconds

    return Kind(read)


def size() -> Kind[int]:
    """Accept a number with a unit, decimal or binary, or ``0``; inside it is bytes."""

    def read(value: object) -> int:
        if value == "0":
            return 0
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise Unfit("a size such as 512MiB, 50GiB or 50GB", value)
        unit = match[2] or ""
        return int(float(match[1]) * (1024 if unit.endswith("i") else 1000) ** _UNIT_POWERS.get(unit[:1], 0))

    return Kind(read)


def choice(choices: type[E]) -> Kind[E]:
    """Accept one of an enumeration's words."""

    def read(value: object) -> E:
        for known in choices:
            if value == known.value:
                return known
        raise Unfit(f"one of {', '.join(choices)}", value)

    return Kind(read)


def list_of(item: Kind[T], *, minimum: int = 0) -> Kind[tuple[T, ...]]:
    """Accept a list; a variable separates the items by commas."""

    def read(value: object) -> tuple[T, ...]:
        if not isinstance(value, list | tuple):
            raise Unfit("a list", value)
        if len(value) < minimum:
            raise Unfit(f"a list of at least {minimum}", value)
        return tuple(item.read(one) for one in value)

    return Kind(read, from_text=lambda text: [part.strip() for part in text.split(",")] if text.strip() else [])


def optional(kind: Kind[T]) -> Kind[T | None]:
    """Accept an empty text for nothing."""
    return Kind(lambda value: None if value == "" else kind.read(value), kind.from_text)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise Unfit("true or false", value)


def _line(value: object) -> str:
    if isinstance(value, str) and value.isprintable():
        return value
    raise Unfit("one line of text")


def _username(value: object) -> str:
    if ":" in (text := _line(value)):  # where RFC 7617 section 2 ends the name
        raise Unfit("a name without a colon")
    return text


def _percentage(value: object) -> float:
    match = _PERCENTAGE.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > _HUNDRED:
        raise Unfit("a percentage from 0% to 100%", value)
    return float(match[1]) / _HUNDRED


def _repository_pattern(value: object) -> RepositoryPattern:
    try:
        return RepositoryPattern.parse(value if isinstance(value, str) else "")
    except InvalidRequest:
        raise Unfit("a repository's name, in which * and ** may stand for any part", value) from None


def _variable(value: object) -> str:
    if isinstance(value, str) and _VARIABLE.fullmatch(value):
        return value
    raise Unfit("the name of an environment variable")  # what is there may be the secret itself


def _path(value: object) -> Path:
    if isinstance(value, str | Path) and str(value) and "\0" not in str(value):
        return Path(value)
    raise Unfit("a path", value)


def _host(value: object) -> str:
    if isinstance(value, str) and _HOST.fullmatch(value.lower()):
        return value.lower()
    raise Unfit("a host name without a port", value)


def _host_and_port(value: object) -> str:
    if isinstance(value, str) and _is_host_and_port(value.lower()):
        return value.lower()
    raise Unfit("a host name, with or without a port", value)


def _network(value: object) -> Network:
    try:
        return ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise Unfit("a network such as 10.0.0.0/8 or fd00::/8", value) from None


def _upstream_name(value: object) -> str:
    if isinstance(value, str) and _is_host_and_port(value):
        return value
    raise Unfit("named by a host in lower case, with or without a port")


def _is_host_and_port(text: str) -> bool:
    match = _HOST_AND_PORT.fullmatch(text)
    return match is not None and int(match["port"] or 0) <= _PORT_LIMIT


def _address(value: object) -> Address:
    found: Address | None = None
    if isinstance(value, str):
        kind, _, path = value.partition(":")
        found = _unix_address(path) if kind == "unix" else _tcp_address(value)
    if found is None:
        raise Unfit('"host:port", "[::]:port" or "unix:/path"', value)
    return found


def _unix_address(path: str) -> UnixAddress | None:
    fits = len(os.fsencode(path)) <= _UNIX_PATH_LIMIT
    return UnixAddress(Path(path)) if path.startswith("/") and fits and path.isprintable() else None


def _tcp_address(text: str) -> TcpAddress | None:
    host, _, port = text.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > _PORT_LIMIT:
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        return TcpAddress(host, int(port)) if _is_ipv6(host) else None
    return TcpAddress(host, int(port)) if _HOST.fullmatch(host.lower()) else None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _client_network(value: object) -> ClientNetwork:
    try:
        return ClientNetwork.parse(value if isinstance(value, str) else "")
    except ValueError as error:
        hint = ", whose last bits are 0" if "host bits" in str(error) else ""
        raise Unfit(f'a network such as 10.0.0.0/8 or fd00::/8{hint}, an address, or "unix:"', value) from None


def _endpoint(value: object) -> str:
    text = value if isinstance(value, str) else ""
    hides_nothing = not {"@", "?"} & set(text)  # else a password or a token may be in it
    if not (text.isascii() and text.isprintable() and " " not in text and _is_base_url(text)):
        raise Unfit("an absolute http or https URL without user, query or fragment", value if hides_nothing else None)
    return text.rstrip("/")


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:  # brackets without an IPv6 address between them, a port out of range
        return False
    has_host = url.hostname is not None and (":" in url.hostname or _HOST.fullmatch(url.hostname) is not None)
    return url.scheme in {"http", "https"} and has_host and port != 0 and not {"@", "?", "#"} & set(text)


def _shown(value: object) -> str:
    match value:
        case str():
            return quote(value)
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value) if abs(value) < _SHOWN_NUMBER_LIMIT else "a number"
        case list():
            return "a list" if value else "an empty list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


BOOLEAN = Kind(_boolean, from_text=lambda text: {"true": True, "false": False}.get(text, text))
LINE = Kind(_line)
USERNAME = Kind(_username)
VARIABLE = Kind(_variable)
PERCENTAGE = Kind(_percentage)
REPOSITORY_PATTERN = Kind(_repository_pattern)
PATH = Kind(_path)
HOST = Kind(_host)
HOST_AND_PORT = Kind(_host_and_port)
NETWORK: Kind[Network] = Kind(_network)
UPSTREAM_NAME = Kind(_upstream_name)
ADDRESS = Kind(_address)
CLIENT_NETWORK = Kind(_client_network)
ENDPOINT = Kind(_endpoint)
