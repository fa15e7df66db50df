"""The HTTP clients of one upstream: their connections, time limits and trust, made when the loop runs."""

from __future__ import annotations

import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import structlog
from yarl import URL

from mirror import __version__
from mirror.errors import ConfigError, UpstreamInvalid
from mirror.ports import UNTRACED, Role
from mirror.upstream.addresses import AddressRefused, Surroundings, is_public

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from aiohttp.abc import AbstractResolver

    from mirror.config import UpstreamConfig
    from mirror.ports import Tracer
    from mirror.upstream.addresses import AddressRule

log = structlog.get_logger(__name__)

_HEADER_LIMIT_BYTES = 64 * 1024  # signed redirects and tokens are longer than aiohttp's 8190
_FIRST_ERROR = 400
_READ_BUFFER_BYTES = 256 * 1024  # aiohttp holds twice as much at most, which is lost when a transfer breaks


class Sessions:
    """Owns the aiohttp sessions of one upstream: one for where the configuration leads, one for strangers.

    A stranger is whom an upstream at a public address has named, in a redirect or as its token service; its connections
    are kept apart, and lead to public addresses only (`mirror.upstream.addresses`).
    """

    def __init__(
        self,
        config: UpstreamConfig,
        *,
        is_public: AddressRule = is_public,
        make_resolver: Callable[[], AbstractResolver] = aiohttp.DefaultResolver,
        tracer: Tracer = UNTRACED,
    ) -> None:
        """Take an upstream's limits and who looks names up; nothing is opened before ``async with``."""
        self._config = config
        self._is_public = is_public
        self._make_resolver = make_resolver
        self._tracer = tracer
        self._configured = {URL(endpoint).origin() for endpoint in config.endpoints}
        self._surroundings: Surroundings | None = None
        self._session: aiohttp.ClientSession | None = None
        self._strangers: aiohttp.ClientSession | None = None

    @property
    def current(self) -> aiohttp.ClientSession:
        """The open session for where the configuration leads."""
        assert self._session is not None, "used outside of its `async with`"  # noqa: S101 - a mistake of ours
        return self._session

    async def request(
        self,
        method: str,
        url: URL,
        *,
        named_by: URL,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send to an address that ``named_by`` has named: the configuration's own, or another; never redirected.

        Raises:
            UpstreamInvalid: it is an address that the one who named it may not lead to.
            aiohttp.ClientError, OSError, ValueError: no answer.
        """
        session = self._leading_to(url, named_by)
        try:
            return await self._ask(session, method, url, dict(headers or {}), form)
        except aiohttp.ClientConnectorError as error:
            if not isinstance(error.os_error, AddressRefused):
                raise
            name = self._config.name
            log.warning("upstream.address_refused", upstream=name, host=url.host, named_by=named_by.host)
            message = f"{name} leads to {url.host}, which has no public address; redirect_networks would allow it"
            raise UpstreamInvalid(message, upstream=name) from error

    async def request_outside(self, url: URL) -> aiohttp.ClientResponse:
        """Ask a service beside the registry that the configuration names; never redirected.

        Raises:
            aiohttp.ClientError, OSError: no answer.
        """
        return await self._ask(self.current, "GET", url, {}, None)

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: dict[str, str],
        form: Mapping[str, str] | None,
    ) -> aiohttp.ClientResponse:
        """Send one request and trace it, saying no more of its address than the host: the rest may hold a secret."""
        facts = {
            "mirror.upstream": self._config.name,
            "http.request.method": method,
            "server.address": url.host,
            "server.port": url.port,
        }
        with self._tracer.span(method, facts, role=Role.CLIENT) as span:
            if self._may_know_of_traces(url):
                span.carry(headers)
            try:
                response = await session.request(method, url, headers=headers, data=form, allow_redirects=False)
            except BaseException as error:
                span.fail(type(error).__name__)
                raise
            span.describe({"http.response.status_code": response.status})
            if response.status >= _FIRST_ERROR and response.status != HTTPStatus.UNAUTHORIZED:
                span.fail(f"answered {response.status}")
            return response

    def _may_know_of_traces(self, url: URL) -> bool:
        """Tell whether a host may be told which trace a request is of: only an operator's own has a use for it.

        To a public registry it would say which of its requests, and whose, belong together.
        """
        assert self._surroundings is not None, "used outside of its `async with`"  # noqa: S101 - a mistake of ours
        return url.origin() in self._configured and self._surroundings.is_inside(url)

    def _leading_to(self, url: URL, named_by: URL) -> aiohttp.ClientSession:
        """Choose by who named it; an endpoint may name itself, and the configuration whom it trusts with tokens."""
        assert self._surroundings is not None, "used outside of its `async with`"  # noqa: S101 - a mistake of ours
        assert self._strangers is not None, "used outside of its `async with`"  # noqa: S101 - a mistake of ours
        is_own = url.origin() == named_by.origin() and url.origin() in self._configured
        if is_own or url.host in self._config.token_hosts or self._surroundings.is_inside(named_by):
            return self.current
        return self._strangers

    async def __aenter__(self) -> Self:
        config = self._config
        resolver = self._make_resolver()
        self._surroundings = Surroundings(self._is_public, allowed=config.redirect_networks, lookup=resolver)
        self._session = _open(config, resolver=self._surroundings)
        self._strangers = _open(config, resolver=resolver, make_socket=self._surroundings.make_socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.current.close()
        if self._strangers is not None:
            await self._strangers.close()
        if self._surroundings is not None:
            await self._surroundings.close()


def _open(
    config: UpstreamConfig,
    *,
    resolver: AbstractResolver,
    make_socket: Callable[[tuple[Any, ...]], socket.socket] | None = None,
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=config.max_connections, ssl=_trust(config), resolver=resolver, socket_factory=make_socket
        ),
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
