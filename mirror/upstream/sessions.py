"""The HTTP client of one upstream: its connections, time limits and trust, made when the loop runs."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Self

import aiohttp

from mirror import __version__
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from types import TracebackType

    from mirror.config import UpstreamConfig

_HEADER_LIMIT_BYTES = 64 * 1024  # signed redirects and tokens are longer than aiohttp's 8190
_READ_BUFFER_BYTES = 256 * 1024  # aiohttp holds twice as much at most, which is lost when a transfer breaks


class Sessions:
    """Owns the aiohttp session of one upstream."""

    def __init__(self, config: UpstreamConfig) -> None:
        """Take an upstream's limits; nothing is opened before ``async with``."""
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    @property
    def current(self) -> aiohttp.ClientSession:
        """The open session."""
        assert self._session is not None, "used outside of its `async with`"  # noqa: S101 - a mistake of ours
        return self._session

    async def __aenter__(self) -> Self:
        config = self._config
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_connections, ssl=_trust(config)),
            # no limit on the whole: a 40 GB layer takes as long as it takes
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=config.connect_timeout_seconds, sock_read=config.read_timeout_seconds
            ),
            # `identity`: a digest is over the bytes as they are, not as a CDN would like to compress them
            headers={"Accept-Encoding": "identity", "User-Agent": f"mirror/{__version__}"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            requote_redirect_url=False,
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=_HEADER_LIMIT_BYTES,
            max_field_size=_HEADER_LIMIT_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.current.close()


async def read_beginning(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """Read to the end, or a little past the limit; one ``read`` returns as little as has come."""
    body = bytearray()
    while len(body) < limit_bytes and (chunk := await response.content.readany()):
        body += chunk
    return bytes(body)


def _trust(config: UpstreamConfig) -> ssl.SSLContext | bool:
    if config.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(config.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f'upstreams."{config.name}".ca_file: cannot use {config.ca_file}: {error}') from error
