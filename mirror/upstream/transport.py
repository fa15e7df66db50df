"""One request to one upstream: endpoints in order, authentication, redirects by hand, time limits, counts.

request ──► endpoint ──► hop ──► 401: one new Authorization ──► answer
               ▲          ▲ └──► 3xx: next hop, no credential on another origin
               └ no answer, 429, 5xx, 404: the next endpoint, where there is one

What an endpoint has said about its rate limit is kept to: until then it is not asked.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, NoReturn

import aiohttp
import structlog
from yarl import URL

from mirror.concurrency.request_id import request_id
from mirror.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    MirrorError,
    NotFound,
    RateLimited,
    UpstreamError,
    UpstreamFailed,
    UpstreamInvalid,
    UpstreamUnreachable,
    quote,
)
from mirror.http.challenge import parse_challenges
from mirror.oci.requests import Kind
from mirror.upstream.sessions import read_beginning
from mirror.upstream.tokens import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from mirror.config import UpstreamConfig
    from mirror.http.challenge import Challenge
    from mirror.ports import Clock, UpstreamObserver
    from mirror.upstream.auth import Authenticator, Authorization
    from mirror.upstream.endpoints import Endpoint, Endpoints
    from mirror.upstream.sessions import Sessions

log = structlog.get_logger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_HOPS = 10
_NOT_FOUND = {Kind.MANIFEST: ManifestUnknown, Kind.BLOB: BlobUnknown}
_SERVER_ERROR = 500
_REPOSITORY = re.compile(r"(?:/.*)?/v2/(.+)/(?:manifests|blobs|referrers|tags)/[^/]+")
_NOT_IN_A_URL = re.compile(r"[^!-~]")  # what would end the target in our request's line
_ERROR_TEXT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked: ``path`` is below an endpoint's ``/v2/``, already safe, since it is built from parsed names."""

    method: str
    path: str
    repository: str
    kind: Kind
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    follow: bool = True
    expected: frozenset[int] = frozenset({200})

    @property
    def is_counted(self) -> bool:
        """Whether a pull limit counts it: Docker Hub's counts the GET of a manifest."""
        return self.kind is Kind.MANIFEST and self.method == "GET"

    def url(self, endpoint: URL) -> URL:
        """Return the address at one endpoint."""
        base = str(endpoint).rstrip("/")
        return URL(f"{base}/v2/{self.path}", encoded=True).with_query(self.query or None)


class Transport:
    """Sends the calls of one upstream."""

    def __init__(
        self,
        config: UpstreamConfig,
        sessions: Sessions,
        auth: Authenticator,
        endpoints: Endpoints,
        *,
        observer: UpstreamObserver,
        clock: Clock,
    ) -> None:
        """Join the parts."""
        self._name = config.name
        self._sessions = sessions
        self._auth = auth
        self._endpoints = endpoints
        self._observer = observer
        self._clock = clock

    @asynccontextmanager
    async def request(self, call: Call) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the first expected answer of the endpoints in order, its body unread; it is closed on leaving.

        Raises:
            NotFound, Denied: every endpoint that answered said so, and none failed to answer.
            UpstreamError: no endpoint could answer.
        """
        response = await self._first_answer(call)
        try:
            yield response
        finally:
            response.close()

    @asynccontextmanager
    async def request_outside(
        self, url: URL, query: Mapping[str, str], kind: Kind
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the answer of a service beside the registry (its search), asked without any credential.

        Raises:
            UpstreamError: it did not answer with 200.
        """
        started = time.monotonic()
        code = "error"
        call = Call(method="GET", path=url.path, repository="", kind=kind)
        try:
            async with asyncio.timeout(self._endpoints.patience_seconds_outside):
                response = await self._sessions.request_outside(url.with_query(query))
            code = str(response.status)
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise self._unreachable(url, error) from error
        finally:
            self._observer.upstream_answered(self._name, kind, "GET", code, time.monotonic() - started)
        try:
            if response.status not in call.expected:
                self._refuse(call, response)
            yield response
        finally:
            response.close()

    async def _first_answer(self, call: Call) -> aiohttp.ClientResponse:
        refusal: NotFound | Denied | None = None
        outage: UpstreamError | None = None
        for endpoint in self._endpoints.in_order():
            try:
                self._keep_to_limit(endpoint, call)
                return await self._ask(endpoint, call)
            except (NotFound, Denied) as error:
                refusal = refusal or error
            except UpstreamError as error:
                outage = outage or error
                log.debug("upstream.endpoint_failed", upstream=self._name, endpoint=str(endpoint.url), error=str(error))
        # "not there" from one endpoint proves nothing while another, which may have it, cannot answer
        raise outage or refusal or UpstreamFailed(f"{self._name} has no endpoints", upstream=self._name)

    def _keep_to_limit(self, endpoint: Endpoint, call: Call) -> None:
        wait_seconds = endpoint.limit.wait_seconds(is_counted=call.is_counted, now=self._clock())
        if wait_seconds > 0:
            message = f"{self._name} limits its rate; it is asked again in {math.ceil(wait_seconds)} s"
            raise RateLimited(message, upstream=self._name, retry_after_seconds=wait_seconds)

    async def _ask(self, endpoint: Endpoint, call: Call) -> aiohttp.ClientResponse:
        await self._auth.prepare()
        started = time.monotonic()
        code = "error"
        try:
            async with asyncio.timeout(self._endpoints.patience_seconds(endpoint)):
                response = await self._follow(endpoint, call)
                text = await self._read_if_limited(response)
            code = str(response.status)
            self._endpoints.note_answer(endpoint, is_error=response.status >= _SERVER_ERROR)
        except RateLimited as error:  # the token service's
            raise self._noted_wait(
                endpoint, call, endpoint.limit.hold(error.retry_after_seconds, now=self._clock())
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a TimeoutError is an OSError
            if not isinstance(error, ValueError):  # that is a redirect which makes no sense
                self._endpoints.note_silence(endpoint)
            raise self._unreachable(endpoint.url, error) from error
        finally:
            self._observer.upstream_answered(self._name, call.kind, call.method, code, time.monotonic() - started)
            self._observer.upstream_up(self._name, is_up=code != "error" and not code.startswith("5"))
        self._note_limit(endpoint, response)
        try:
            if response.status == HTTPStatus.TOO_MANY_REQUESTS:
                raise self._limited(endpoint, call, response, text)
            if response.status not in call.expected:
                self._refuse(call, response)
        except MirrorError:
            response.close()
            raise
        return response

    async def _follow(self, endpoint: Endpoint, call: Call) -> aiohttp.ClientResponse:
        url = call.url(endpoint.url)
        named_by = endpoint.url
        for _ in range(_MOST_HOPS):
            response = await self._send(url, call, named_by)
            location = response.headers.get("Location")
            if not (call.follow and response.status in _REDIRECTS and location):
                return response
            response.close()
            named_by, url = url, self._target(url, location)
        raise UpstreamInvalid(f"{self._name} redirects more than {_MOST_HOPS} times", upstream=self._name)

    def _target(self, url: URL, location: str) -> URL:
        """Read where a redirect leads: to a host, and from HTTPS to nothing less."""
        try:
            # encoded=True: re-quoting would break the signature of a CDN's URL
            target = url.join(URL(location, encoded=True))
            is_whole = target.scheme in {"https", url.scheme} and target.host and target.port and target.user is None
            if is_whole and _NOT_IN_A_URL.search(location) is None:
                return target
        except ValueError:  # no URL, or one without sense
            pass
        # what follows the scheme may hold a secret
        message = f"{self._name} redirects to {quote(location.partition(':')[0])}, which leads nowhere"
        raise UpstreamInvalid(message, upstream=self._name)

    async def _send(self, url: URL, call: Call, named_by: URL) -> aiohttp.ClientResponse:
        """Send to one hop; a 401 is answered once, with whatever its challenge asks for."""
        origin = url.origin()
        repository = _repository_of(url) or call.repository
        shown = await self._auth.authorization(origin, repository)
        response = await self._send_once(url, call, shown, named_by)
        if not _is_about_authorization(response, shown):
            return response
        challenges = _challenges(response)
        if response.status == HTTPStatus.UNAUTHORIZED and not await self._learn(url, challenges, named_by):
            return response
        if shown is not None and shown.is_fresh and _lacks_scope(challenges):
            return response  # a new token would have no more in it
        renewed = await self._auth.authorization(origin, repository, refused=shown)
        if renewed == shown or (renewed is None and response.status != HTTPStatus.UNAUTHORIZED):
            return response
        response.close()
        response = await self._send_once(url, call, renewed, named_by)
        if response.status == HTTPStatus.UNAUTHORIZED:
            self._auth.unlearn(origin, _challenges(response))
        return response

    async def _learn(self, url: URL, challenges: Sequence[Challenge], named_by: URL) -> bool:
        """Take in what is asked for; from ``/v2/`` where the challenge is left out, as gcr.io has done."""
        origin = url.origin()
        if self._auth.learn(origin, challenges) or self._auth.known(origin) is not None:
            return True
        async with await self._sessions.request("GET", self._auth.base(origin) / "v2/", named_by=named_by) as response:
            return self._auth.learn(origin, _challenges(response))

    async def _send_once(
        self, url: URL, call: Call, shown: Authorization | None, named_by: URL
    ) -> aiohttp.ClientResponse:
        headers = dict(call.headers)
        if shown is not None:
            headers["Authorization"] = shown.value
        asked_for = request_id.get()
        if asked_for is not None and url.origin() == named_by.origin():  # the registry's log may be looked at, no CDN's
            headers["X-Request-Id"] = asked_for
        return await self._sessions.request(call.method, url, named_by=named_by, headers=headers)

    def _refuse(self, call: Call, response: aiohttp.ClientResponse) -> NoReturn:
        what = f"{self._name} answered {response.status} for {call.repository or call.path}"
        match response.status:
            case 429:
                raise RateLimited(what, upstream=self._name, retry_after_seconds=None)
            case 403 | 451:
                raise Denied(what)
            case 400 | 401 | 404 | 405 | 410:
                raise _NOT_FOUND.get(call.kind, NotFound)(what)
            case 416:
                raise UpstreamInvalid(what, upstream=self._name)
            case _:
                raise UpstreamFailed(what, upstream=self._name)

    async def _read_if_limited(self, response: aiohttp.ClientResponse) -> str:
        """Return the text of a 429, which may say how long to wait, or only which limit it is."""
        if response.status != HTTPStatus.TOO_MANY_REQUESTS:
            return ""
        return (await read_beginning(response, _ERROR_TEXT_BYTES)).decode(errors="replace")

    def _limited(self, endpoint: Endpoint, call: Call, response: aiohttp.ClientResponse, text: str) -> RateLimited:
        limit = endpoint.limit
        wait_seconds = limit.note_refusal(response.headers, text, is_counted=call.is_counted, now=self._clock())
        return self._noted_wait(endpoint, call, wait_seconds)

    def _noted_wait(self, endpoint: Endpoint, call: Call, wait_seconds: float) -> RateLimited:
        log.warning(
            "upstream.rate_limited",
            upstream=self._name,
            endpoint=str(endpoint.url),
            retry_after_seconds=round(wait_seconds, 3),
        )
        what = f"{self._name} answered 429 for {call.repository}; it is asked again in {math.ceil(wait_seconds)} s"
        return RateLimited(what, upstream=self._name, retry_after_seconds=wait_seconds)

    def _note_limit(self, endpoint: Endpoint, response: aiohttp.ClientResponse) -> None:
        limit = endpoint.limit
        if limit.note_headers(response.headers, self._clock()):
            self._observer.limit_seen(self._name, limit.limit, limit.remaining)
        if response.status != HTTPStatus.TOO_MANY_REQUESTS:
            limit.note_success()

    def _unreachable(self, url: URL, error: BaseException) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f"{self._name} cannot be reached at {url.host}: {describe(error)}", upstream=self._name
        )


def _challenges(response: aiohttp.ClientResponse) -> list[Challenge]:
    return parse_challenges(response.headers.getall("WWW-Authenticate", ()))


def _is_about_authorization(response: aiohttp.ClientResponse, shown: Authorization | None) -> bool:
    """Tell whether another ``Authorization`` might help.

    Amazon answers 403 for a password that has ended, and 400 for a token.
    """
    match response.status:
        case HTTPStatus.UNAUTHORIZED:
            return True
        case HTTPStatus.FORBIDDEN:
            return shown is not None and shown.is_basic
        case HTTPStatus.BAD_REQUEST:
            return shown is not None and not shown.is_basic and not shown.is_fresh
        case _:
            return False


def _repository_of(url: URL) -> str | None:
    """Return the repository that a registry's address is about: a redirect may lead to one of another name."""
    match = _REPOSITORY.fullmatch(url.path)
    return None if match is None else match[1]


def _lacks_scope(challenges: Iterable[Challenge]) -> bool:
    return any(one.parameters.get("error") == "insufficient_scope" for one in challenges)
