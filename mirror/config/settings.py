"""Every setting, declared once: the field is its key, its type, how it is written and its default.

A key enters with the code that gives it its effect. A field's key is its name without the unit: ``tag_ttl_seconds`` is
written ``tag_ttl``, ``max_size_bytes`` is ``max_size``. Each is described in docs/configuration.md, which a test
compares with this module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from mirror.config import values
from mirror.config.values import Address, Kind, Network
from mirror.http.networks import ClientNetwork
from mirror.oci.patterns import RepositoryPattern, Rules

T = TypeVar("T")

_KIND: Final = "kind"
_WRITTEN: Final = "written"


def setting(kind: Kind[T], default: object) -> T:
    """Declare a field of the configuration; the default is written as it would be in the file."""
    # typed as `dataclasses.field` is: by the value that the field has in an instance
    declared: T = field(default=kind.read(default), metadata={_KIND: kind, _WRITTEN: default})
    return declared


@dataclass(frozen=True, slots=True)
class Declared:
    """A setting as the loader sees it; ``default`` is as written in a file, ``None`` where other settings decide."""

    attribute: str
    kind: Kind[object]
    default: object


def declared(section: type[Any]) -> dict[str, Declared]:
    """Return the settings of a section's class by key."""
    return {
        one.name.removesuffix("_seconds").removesuffix("_bytes"): Declared(
            one.name, one.metadata[_KIND], one.metadata.get(_WRITTEN)
        )
        for one in fields(section)
        if _KIND in one.metadata
    }


class LogLevel(StrEnum):
    """The least severe event that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How events are printed; ``auto`` is ``console`` on a terminal and ``json`` elsewhere."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What HTTPS is made of, as PEM files."""

    certificate: Path
    key: Path
    client_ca: Path | None
    """Who has to have signed a client's certificate; None: clients need none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where clients reach the mirror, and by how many processes."""

    listen: tuple[Address, ...] = setting(values.list_of(values.ADDRESS, minimum=1), ["0.0.0.0:5000"])
    workers: int = setting(values.integer(minimum=0), 1)
    tls_certificate: Path | None = setting(values.optional(values.PATH), "")
    tls_key: Path | None = setting(values.optional(values.PATH), "")
    tls_client_ca: Path | None = setting(values.optional(values.PATH), "")
    max_connections_per_address: int = setting(values.integer(minimum=1), 512)
    header_timeout_seconds: float = setting(values.duration(positive=True), "10s")
    send_timeout_seconds: float = setting(values.duration(positive=True), "5m")
    shutdown_grace_seconds: float = setting(values.duration(), "30s")
    metrics_listen: Address | None = setting(values.optional(values.ADDRESS), "")

    @property
    def tls(self) -> TlsFiles | None:
        """HTTPS, where it is configured."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(certificate=self.tls_certificate, key=self.tls_key, client_ca=self.tls_client_ca)

    @property
    def worker_count(self) -> int:
        """How many processes to start: one for each core this process may use where ``workers`` is 0."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What is logged, and how it is printed."""

    level: LogLevel = setting(values.choice(LogLevel), "info")
    format: LogFormat = setting(values.choice(LogFormat), "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Where content is kept and how much of it, and for how long an answer about a tag holds."""

    dir: Path = setting(values.PATH, "./mirror-cache")
    max_size_bytes: int = setting(values.size(), "0")
    min_free_bytes: int = setting(values.size(), "1GiB")
    tag_ttl_seconds: float = setting(values.duration(), "1m")
    stale_if_error_seconds: float = setting(values.duration(), "7d")
    negative_ttl_seconds: float = setting(values.duration(), "10s")
    verify: bool = setting(values.BOOLEAN, default=True)
    offline: bool = setting(values.BOOLEAN, default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """Who may use this mirror."""

    htpasswd: Path | None = setting(values.optional(values.PATH), "")
    anonymous_networks: tuple[ClientNetwork, ...] = setting(values.list_of(values.CLIENT_NETWORK), [])
    trusted_proxies: tuple[ClientNetwork, ...] = setting(values.list_of(values.CLIENT_NETWORK), [])
    admin_token_file: Path | None = setting(values.optional(values.PATH), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredCredential:
    """What an upstream knows us by, as its table says; ``repr`` leaves the password out.

    ``password`` is what was read at the start; ``password_file`` is where, if it may be read again.
    """

    username: str
    password: str = field(repr=False)
    password_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """One registry to fetch from; ``name`` is what clients call it, the endpoints are where it answers."""

    name: str
    endpoints: tuple[str, ...] = field(metadata={_KIND: values.list_of(values.ENDPOINT, minimum=1)})
    default: bool = setting(values.BOOLEAN, default=False)
    hostnames: tuple[str, ...] = setting(values.list_of(values.HOST_AND_PORT), [])
    credential: ConfiguredCredential | None = None
    allow: tuple[RepositoryPattern, ...] = setting(values.list_of(values.REPOSITORY_PATTERN), [])
    deny: tuple[RepositoryPattern, ...] = setting(values.list_of(values.REPOSITORY_PATTERN), [])
    tag_ttl_seconds: float = field(metadata={_KIND: values.duration()})
    connect_timeout_seconds: float = setting(values.duration(positive=True), "5s")
    read_timeout_seconds: float = setting(values.duration(positive=True), "30s")
    max_connections: int = setting(values.integer(minimum=1), 64)
    parallel: int = setting(values.integer(minimum=1), 4)
    ratelimit_reserve: float = setting(values.PERCENTAGE, "10%")
    ca_file: Path | None = setting(values.optional(values.PATH), "")
    token_hosts: tuple[str, ...] = setting(values.list_of(values.HOST), [])
    redirect_networks: tuple[Network, ...] = setting(values.list_of(values.NETWORK), [])
    search_endpoint: str | None = setting(values.optional(values.ENDPOINT), "")

    @property
    def rules(self) -> Rules:
        """Which of its repositories are served."""
        return Rules(allow=self.allow, deny=self.deny)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamKeys:
    """Keys of an upstream's table that decide whether it is there and what its credential is."""

    enabled: bool = setting(values.BOOLEAN, default=True)
    username: str | None = setting(values.optional(values.USERNAME), "")
    password_file: Path | None = setting(values.optional(values.PATH), "")
    password_env: str | None = setting(values.optional(values.VARIABLE), "")
    password: str | None = setting(values.optional(values.LINE), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that an operator decides."""

    server: ServerConfig
    log: LogConfig
    cache: CacheConfig
    access: AccessConfig
    upstreams: Mapping[str, UpstreamConfig]
    docker_config: Path | None = None
    """Docker's configuration file, there or not; None where nothing says where it would be."""

    @property
    def login_file(self) -> Path:
        """Where ``mirror login`` keeps credentials: with the cache, which the server and the command both know."""
        return self.cache.dir / "credentials.json"

    @property
    def control_socket(self) -> Path:
        """Where commands reach the running server."""
        return self.cache.dir / "control.sock"

    @property
    def default_upstream(self) -> UpstreamConfig:
        """The upstream of a request that names none."""
        return next(upstream for upstream in self.upstreams.values() if upstream.default)


SECTIONS: Final = {
    "server": declared(ServerConfig),
    "log": declared(LogConfig),
    "cache": declared(CacheConfig),
    "access": declared(AccessConfig),
}
UPSTREAM: Final = declared(UpstreamConfig) | declared(UpstreamKeys)

DOCKER_HUB: Final = "docker.io"
BUILT_IN: Final[Mapping[str, Mapping[str, object]]] = {
    DOCKER_HUB: {
        "default": True,
        "endpoints": ["https://registry-1.docker.io"],
        "search_endpoint": "https://index.docker.io",
    },
    "ghcr.io": {},
    "quay.io": {},
    "gcr.io": {},
    "registry.k8s.io": {},
    "mcr.microsoft.com": {},
    "public.ecr.aws": {},
    "registry.gitlab.com": {},
    "nvcr.io": {},
}
"""The upstreams there are without a file; one whose endpoints are not given answers at ``https://NAME``."""
