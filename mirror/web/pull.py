"""Manifests, blobs and lists over HTTP: the engine's answers, with their headers."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, assert_never

from aiohttp import web

from mirror.errors import InvalidRequest
from mirror.http.cache_status import Outcome, cache_status
from mirror.http.conditional import etag_matches, if_range_holds
from mirror.http.links import render_next
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX, OCTET_STREAM
from mirror.oci.reference import Tag
from mirror.oci.requests import (
    BlobRequest,
    CatalogRequest,
    Kind,
    ManifestRequest,
    Ping,
    ReferrersRequest,
    TagsRequest,
    parse_page,
)
from mirror.web.sending import send_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.engine.answers import BlobAnswer, ListAnswer
    from mirror.engine.pull import PullThrough
    from mirror.oci.reference import Repository
    from mirror.ports import Upstream
    from mirror.web.exchange import Exchange
    from mirror.web.routes import Route, Router, Target

_FOR_EVER = "max-age=31536000, immutable"
_SEARCH_TEXT_LIMIT = 255
API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


class PullHandlers:
    """Answers ``/v2/`` and the little of ``/v1/`` that ``docker search`` asks for."""

    def __init__(self, router: Router, pull: PullThrough) -> None:
        """Join the parts."""
        self._router = router
        self._pull = pull

    async def handle(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        """Answer one request below ``/v2``.

        Raises:
            MirrorError: for `mirror.web.errors`; nothing was sent then.
        """
        route = self._router.route(target, exchange.request.host)
        exchange.kind = route.request.kind
        headers = self._common_headers(exchange, route)
        if isinstance(route.request, Ping):
            return web.Response(body=b"{}", content_type="application/json", headers=headers)
        if isinstance(route.request, CatalogRequest):
            answer = await self._pull.lists.catalog(
                route.request.page, default_upstream=self._router.default.name, permits=self._router.permits
            )
            return self._list(exchange, answer, headers, target=target, limit=route.request.page.limit)
        if route.upstream is None or route.repository is None:
            raise InvalidRequest("the request names no repository")
        exchange.upstream, exchange.repository = route.upstream.name, route.repository.name
        return await self._about_repository(exchange, target, route, route.upstream, route.repository, headers)

    async def _about_repository(
        self,
        exchange: Exchange,
        target: Target,
        route: Route,
        upstream: Upstream,
        repository: Repository,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        match route.request:
            case ManifestRequest(reference=reference):
                exchange.reference = str(reference)
                return await self._manifest(exchange, upstream, repository, reference, headers)
            case BlobRequest(digest=digest):
                exchange.reference = str(digest)
                return await self._blob(exchange, upstream, repository, digest, headers)
            case TagsRequest(name=name, page=page):
                tags = await self._pull.lists.tags(upstream, repository, name, page)
                return self._list(exchange, tags, headers, target=target, limit=page.limit)
            case ReferrersRequest(digest=digest, artifact_type=artifact_type):
                exchange.reference = str(digest)
                referrers = await self._pull.lists.referrers(upstream, repository, digest, artifact_type)
                return self._list(exchange, referrers, headers, target=target, content_type=OCI_INDEX)
            case Ping() | CatalogRequest():
                raise InvalidRequest("the request names no repository")
            case _:
                assert_never(route.request)

    # ---- manifests

    async def _manifest(
        self,
        exchange: Exchange,
        upstream: Upstream,
        repository: Repository,
        reference: Tag | Digest,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        is_head = exchange.request.method == "HEAD"
        answer = await self._pull.manifest(upstream, repository, reference, with_body=not is_head)
        exchange.outcome = answer.outcome
        descriptor = answer.descriptor
        headers |= _status_headers(answer.outcome, answer.ttl_seconds, upstream.name)
        headers |= _content_headers(descriptor.digest, descriptor.media_type)
        if isinstance(reference, Digest):
            headers["Cache-Control"] = _FOR_EVER
        if etag_matches(exchange.request.headers.get("If-None-Match"), descriptor.digest):
            return web.Response(status=304, headers=headers)
        if is_head or answer.body is None:
            return web.Response(headers=headers | {"Content-Length": str(descriptor.size_bytes)})
        exchange.bytes_sent = len(answer.body)
        return web.Response(body=answer.body, headers=headers)

    # ---- blobs

    async def _blob(
        self,
        exchange: Exchange,
        upstream: Upstream,
        repository: Repository,
        digest: Digest,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        request = exchange.request
        if request.method == "HEAD":
            answer = await self._pull.blobs.head(upstream, repository, digest)
        else:
            range_header = request.headers.get("Range")
            if not if_range_holds(request.headers.get("If-Range"), digest):
                range_header = None
            answer = await self._pull.blobs.get(upstream, repository, digest, range_header=range_header)
        try:
            exchange.outcome = answer.outcome
            headers |= _status_headers(answer.outcome, None, upstream.name)
            headers |= _content_headers(digest, OCTET_STREAM)
            headers |= {"Accept-Ranges": "bytes", "Cache-Control": _FOR_EVER}
            if etag_matches(request.headers.get("If-None-Match"), digest):
                return web.Response(status=304, headers=headers)
            return await self._send_blob(exchange, answer, headers)
        finally:
            await answer.release()

    async def _send_blob(self, exchange: Exchange, answer: BlobAnswer, headers: dict[str, str]) -> web.StreamResponse:
        part, size_bytes = answer.part, answer.size_bytes
        if part is not None and size_bytes is not None:
            headers["Content-Range"] = part.content_range(size_bytes)
        length = size_bytes if part is None else part.length
        if length is not None:
            headers["Content-Length"] = str(length)
        response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
        if length is None and exchange.request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(exchange.request)
        exchange.headers_sent(response.status)
        if exchange.request.method != "HEAD":
            await self._send_content(exchange, answer, response)
        await response.write_eof()
        return response

    async def _send_content(self, exchange: Exchange, answer: BlobAnswer, response: web.StreamResponse) -> None:
        def sent(size_bytes: int) -> None:
            exchange.bytes_sent += size_bytes

        part = answer.part
        if answer.stream is not None:
            async with aclosing(answer.stream.pieces()) as pieces:
                async for piece in pieces:
                    await response.write(piece)
                    sent(len(piece))
        elif answer.body is not None:
            first = 0 if part is None else part.first
            end = answer.size_bytes if part is None else part.last + 1
            await send_body(exchange.request, response, answer.body, first=first, end=end, sent=sent)

    # ---- lists and search

    async def search(self, exchange: Exchange, target: Target) -> web.StreamResponse:
        """Answer ``/v1/search`` through the default upstream."""
        upstream = self._router.default
        exchange.kind, exchange.upstream = Kind.SEARCH, upstream.name
        query = target.query.get("q", "")
        if not query or len(query) > _SEARCH_TEXT_LIMIT:
            raise InvalidRequest(f"search for something: q=TEXT, of at most {_SEARCH_TEXT_LIMIT} characters")
        answer = await self._pull.lists.search(upstream, query, parse_page(target.query).limit)
        return self._list(exchange, answer, self._request_headers(exchange), target=target)

    def ping_v1(self, exchange: Exchange) -> web.StreamResponse:
        """Answer ``/v1/_ping``; "not standalone" keeps Docker from sending a password with every search."""
        headers = self._request_headers(exchange) | {"X-Docker-Registry-Standalone": "false"}
        return web.Response(body=b'{"standalone":false}', content_type="application/json", headers=headers)

    def _list(
        self,
        exchange: Exchange,
        answer: ListAnswer,
        headers: dict[str, str],
        *,
        target: Target,
        limit: int | None = None,
        content_type: str = "application/json",
    ) -> web.StreamResponse:
        exchange.outcome = answer.outcome
        stale_seconds = None if answer.stale_seconds is None else -answer.stale_seconds
        headers |= _status_headers(answer.outcome, stale_seconds, exchange.upstream or "")
        headers["Content-Type"] = content_type
        if answer.has_more and answer.last is not None:
            namespace = target.query.get("ns")
            headers["Link"] = render_next(target.path, limit=limit, last=answer.last, namespace=namespace)
        if answer.is_filtered:
            headers["OCI-Filters-Applied"] = "artifactType"
        exchange.bytes_sent = len(answer.body) if exchange.request.method != "HEAD" else 0
        return web.Response(body=answer.body, headers=headers)

    def _request_headers(self, exchange: Exchange) -> dict[str, str]:
        return {"X-Request-Id": exchange.request_id}

    def _common_headers(self, exchange: Exchange, route: Route) -> dict[str, str]:
        headers = API_VERSION | self._request_headers(exchange) | {"Cache-Status": "mirror"}
        if route.namespace is not None and route.upstream is not None:
            headers["OCI-Namespace"] = route.namespace
        return headers


def _content_headers(digest: Digest, media_type: str) -> Mapping[str, str]:
    return {"Content-Type": media_type, "Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}


def _status_headers(outcome: Outcome, ttl_seconds: int | None, upstream: str) -> Mapping[str, str]:
    headers = {"Cache-Status": cache_status(outcome, ttl_seconds=ttl_seconds)}
    if outcome is Outcome.STALE:
        age = -(ttl_seconds or 0)
        headers["Warning"] = f'299 - "{upstream} cannot answer; this answer ran out {age} s ago"'
    return headers
