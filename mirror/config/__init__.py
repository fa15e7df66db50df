"""The configuration: one TOML file, environment variables and flags, checked once and handed on as frozen values."""

from __future__ import annotations

from mirror.config.load import load
from mirror.config.settings import (
    AccessConfig,
    CacheConfig,
    Config,
    ConfiguredCredential,
    LogConfig,
    LogFormat,
    LogLevel,
    ServerConfig,
    TlsFiles,
    UpstreamConfig,
)
from mirror.config.values import Address, Network, TcpAddress, UnixAddress

__all__ = [
    "AccessConfig",
    "Address",
    "CacheConfig",
    "Config",
    "ConfiguredCredential",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "Network",
    "ServerConfig",
    "TcpAddress",
    "TlsFiles",
    "UnixAddress",
    "UpstreamConfig",
    "load",
]
