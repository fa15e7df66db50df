"""Manifests and small blobs in memory, answered the moment the request has been read: no parser, task or coroutine.

A fleet's clients send the same few requests over and over, byte for byte. The first of them goes the whole way, and is
remembered when it was a hit: what was read from its head, never what was answered. The next with the very same bytes is
looked up in memory as every request is, and answered at once where it is still a hit. If it is not, or if anything else
is out of the ordinary, it goes the whole way too. Answers are made ready once and used for as long as they would come
out the same, which is a second at most.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11

from mirror.engine.answers import BlobAnswer, ManifestAnswer
from mirror.engine.small_blobs import SMALL_BYTES
from mirror.http.cache_status import Outcome
from mirror.oci.descriptor import Descriptor
from mirror.oci.media_types import OCTET_STREAM
from mirror.oci.requests import BlobRequest, ManifestRequest
from mirror.ports import UNTRACED
from mirror.web.exchange import Exchange, RepeatedExchange, new_request_id
from mirror.web.headers import blob_headers, manifest_headers
from mirror.web.tracing import TracedRepeatedExchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from mirror.engine.pull import PullThrough
    from mirror.oci.reference import Reference, Repository
    from mirror.ports import Tracer, Upstream
    from mirror.web.exchange import RequestObserver
    from mirror.web.gate import Gate, Pass
    from mirror.web.routes import Route

_MOST_REQUESTS = 2048
_LONGEST_HEAD_BYTES = 2048
_LARGEST_BODY_BYTES = SMALL_BYTES  # a larger one is better written with an eye on what the client takes
_ID_PLACE = "\0"
_DECIDING = frozenset({"If-None-Match", "Range"})  # request headers by which the same content is answered otherwise


@dataclass(slots=True)  # not frozen: that would cost each request a microsecond
class _Found:
    """What would be a hit: what it is, its bytes, and for a tag what it has left."""

    descriptor: Descriptor
    body: bytes
    ttl_seconds: int | None = None

    def is_like(self, other: _Found) -> bool:
        """Say whether an answer made from the other is one from this, too."""
        return self.descriptor is other.descriptor and self.body is other.body and self.ttl_seconds == other.ttl_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class _ReadyAnswer:
    """An answer but for its request id and body; the same while what was found, and the date, are."""

    found: _Found
    date: str
    before_id: bytes
    after_id: bytes
    exchange: RepeatedExchange


@dataclass(slots=True, kw_only=True)
class _KnownRequest:
    """What was read from a request's head, and the answer that was last given."""

    is_head: bool
    route: Route
    find: Callable[[], _Found | None]
    admission: Pass | None
    ready: _ReadyAnswer | None = None


class HotRequests:
    """Recognises requests by their bytes, and answers those whose manifest or blob is in memory."""

    def __init__(
        self, pull: PullThrough, observer: RequestObserver, gate: Gate | None, tracer: Tracer = UNTRACED
    ) -> None:
        """Join the parts."""
        self._pull = pull
        self._observer = observer
        self._gate = gate
        self._tracer = tracer
        self._known: dict[bytes, _KnownRequest] = {}

    def __len__(self) -> int:
        return len(self._known)

    def learn(self, head: bytes | None, request: web.BaseRequest, exchange: Exchange) -> None:
        """Remember a request that was a hit, ``head`` being all of its bytes, unless its answer hangs on more."""
        route = exchange.route
        find = None if route is None else self._finder(route, exchange)
        if (
            head is None
            or route is None
            or find is None
            or exchange.outcome is not Outcome.HIT
            or len(head) > _LONGEST_HEAD_BYTES
            or request.version != HttpVersion11
            or not request.keep_alive
            or not _DECIDING.isdisjoint(request.headers)
            or (self._tracer is not UNTRACED and "traceparent" in request.headers)
        ):
            return
        while len(self._known) >= _MOST_REQUESTS:
            del self._known[next(iter(self._known))]
        self._known[self._key(head)] = _KnownRequest(
            is_head=request.method == "HEAD",
            route=route,
            find=find,
            admission=exchange.admission,
        )

    def _finder(self, route: Route, exchange: Exchange) -> Callable[[], _Found | None] | None:
        """Return what looks into memory for a request; None where nothing that it asks for is ever there."""
        if route.upstream is None or route.repository is None:
            return None
        match route.request:
            case ManifestRequest(reference=reference):
                return partial(self._find_manifest, route.upstream, route.repository, reference)
            case BlobRequest(digest=digest) if 0 < exchange.bytes_sent <= SMALL_BYTES:
                descriptor = Descriptor(media_type=OCTET_STREAM, digest=digest, size_bytes=exchange.bytes_sent)
                return partial(self._find_blob, route.repository, descriptor)
            case _:
                return None

    def _find_manifest(self, upstream: Upstream, repository: Repository, reference: Reference) -> _Found | None:
        found = self._pull.peek_manifest(upstream, repository, reference)
        return None if found is None else _Found(found[0].descriptor, found[0].body, found[1])

    def _find_blob(self, repository: Repository, descriptor: Descriptor) -> _Found | None:
        content = self._pull.blobs.peek(repository, descriptor.digest)
        return None if content is None else _Found(descriptor, content)

    def answer(self, head: bytes, *, client: str, write: Callable[[bytes], object]) -> bool:
        """Write the answer and account for it; False, and nothing has happened, where this request is not for here."""
        known = self._known.get(head if self._gate is None else self._key(head))
        if known is None:
            return False
        started = time.perf_counter()
        if self._gate is not None and not self._gate.still_admits(known.admission, client):
            return False
        found = known.find()
        if found is None or len(found.body) > _LARGEST_BODY_BYTES:
            return False
        ready, date = known.ready, rfc822_formatted_time()
        if ready is None or ready.date != date or not found.is_like(ready.found):
            ready = known.ready = self._make_ready(known, found, date)
        request_id = new_request_id()
        body = b"" if known.is_head else found.body
        write(b"%b%b%b%b" % (ready.before_id, request_id.encode(), ready.after_id, body))
        if ready.exchange.add(request_id, client, time.perf_counter() - started):
            asyncio.get_running_loop().call_soon(ready.exchange.finish)
        return True

    def _key(self, head: bytes) -> bytes:
        """Return what a request is known by: its bytes, or where these may hold a password, their digest."""
        return head if self._gate is None or len(head) > _LONGEST_HEAD_BYTES else self._gate.digest(head)

    def _make_ready(self, known: _KnownRequest, found: _Found, date: str) -> _ReadyAnswer:
        headers = _headers(known.route, found)
        headers |= {"Content-Length": str(len(found.body)), "Date": date, "Server": SERVER_SOFTWARE}  # as aiohttp
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        before_id, _, after_id = f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode("ascii").partition(_ID_PLACE.encode())
        exchange = Exchange("HEAD" if known.is_head else "GET", client=None, outcome=Outcome.HIT, status=200)
        exchange.admission = known.admission
        exchange.set_route(known.route)
        exchange.bytes_sent = 0 if known.is_head else len(found.body)
        return _ReadyAnswer(
            found=found,
            date=date,
            before_id=before_id,
            after_id=after_id,
            exchange=self._repeated(exchange),
        )

    def _repeated(self, exchange: Exchange) -> RepeatedExchange:
        if self._tracer is UNTRACED:
            return RepeatedExchange(exchange, self._observer)
        return TracedRepeatedExchange(exchange, self._observer, self._tracer)


def _headers(route: Route, found: _Found) -> dict[str, str]:
    one = found.descriptor
    if isinstance(route.request, BlobRequest):
        blob = BlobAnswer(digest=one.digest, outcome=Outcome.HIT, size_bytes=one.size_bytes)
        return blob_headers(route, _ID_PLACE, blob)
    manifest = ManifestAnswer(descriptor=one, outcome=Outcome.HIT, ttl_seconds=found.ttl_seconds)
    return manifest_headers(route, _ID_PLACE, manifest)
