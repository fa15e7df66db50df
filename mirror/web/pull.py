"""Manifests, blobs and lists over HTTP: the engine's answers, with their headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from aiohttp import web

from mirror.engine.intake import receiving
from mirror.errors import InvalidRequest
from mirror.http.conditional import etag_matches, if_range_holds
from mirror.http.links import render_next
from mirror.oci.media_types import OCI_INDEX
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
from mirror.web.headers import blob_headers, common_headers, manifest_headers, status_headers
from mirror.web.routes import Route
from mirror.web.sending import send_body

if TYPE_CHECKING:
    from mirror.engine.answers import BlobAnswer, ListAnswer, ManifestAnswer
    from mirror.engine.pull import PullThrough
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.ports import Upstream
    from mirror.web.exchange import Exchange
    from mirror.web.routes import Router, Target

_SEARCH_TEXT_LIMIT = 255


class PullHandlers:
    """Answers ``/v2/`` and the little of ``/v1/`` that ``docker search`` asks for."""

    def __init__(self, router: Router, pull: PullThrough) -> None:
        """Join the parts."""
        self._router = router
        self._pull = pull

    async def handle(self, request: web.BaseRequest, exchange: Exchange, target: Target) -> web.StreamResponse:
        """Answer one request below ``/v2``.

        Raises:
            MirrorError: for `mirror.web.errors`; nothing was sent then.
        """
        route = self._router.route(target, request.host)
        exchange.set_route(route)
        match route:
            case Route(request=Ping()):
                headers = common_headers(route, exchange.request_id)
                return web.Response(body=b"{}", content_type="application/json", headers=headers)
            case Route(request=CatalogRequest(page=page)):
                catalog = await self._pull.lists.catalog(
                    page, default_upstream=self._router.default.name, permits=self._router.permits
                )
                return self._list(request, exchange, catalog, route=route, target=target, limit=page.limit)
            case Route(upstream=upstream, repository=repository) if upstream is not None and repository is not None:
                return await self._about_repository(request, exchange, target, route, upstream, repository)
            case _:
                raise InvalidRequest("the request names no repository")

    async def _about_repository(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        target: Target,
        route: Route,
        upstream: Upstream,
        repository: Repository,
    ) -> web.StreamResponse:
        match route.request:
            case ManifestRequest(reference=reference):
                is_head = request.method == "HEAD"
                manifest = await self._pull.manifest(upstream, repository, reference, with_body=not is_head)
                return self._manifest(request, exchange, route, manifest)
            case BlobRequest(digest=digest):
                answer = await self._open_blob(request, upstream, repository, digest)
                return await self._blob(request, exchange, route, answer)
            case TagsRequest(name=name, page=page):
                tags = await self._pull.lists.tags(upstream, repository, name, page)
                return self._list(request, exchange, tags, route=route, target=target, limit=page.limit)
            case ReferrersRequest(digest=digest, artifact_type=artifact_type):
                referrers = await self._pull.lists.referrers(upstream, repository, digest, artifact_type)
                return self._list(request, exchange, referrers, route=route, target=target, content_type=OCI_INDEX)
            case Ping() | CatalogRequest():
                raise InvalidRequest("the request names no repository")
            case _:
                assert_never(route.request)

    # ---- manifests

    def _manifest(
        self, request: web.BaseRequest, exchange: Exchange, route: Route, answer: ManifestAnswer
    ) -> web.StreamResponse:
        exchange.outcome = answer.outcome
        headers = manifest_headers(route, exchange.request_id, answer)
        if etag_matches(request.headers.get("If-None-Match"), answer.descriptor.digest):
            return web.Response(status=304, headers=headers)
        if answer.body is None:
            headers["Content-Length"] = str(answer.descriptor.size_bytes)
            return web.Response(headers=headers)
        exchange.bytes_sent = len(answer.body)
        return web.Response(body=answer.body, headers=headers)

    # ---- blobs

    async def _open_blob(
        self, request: web.BaseRequest, upstream: Upstream, repository: Repository, digest: Digest
    ) -> BlobAnswer:
        if request.method == "HEAD":
            return await self._pull.blobs.head(upstream, repository, digest)
        range_header = request.headers.get("Range")
        if not if_range_holds(request.headers.get("If-Range"), digest):
            range_header = None
        return await self._pull.blobs.get(upstream, repository, digest, range_header=range_header)

    async def _blob(
        self, request: web.BaseRequest, exchange: Exchange, route: Route, answer: BlobAnswer
    ) -> web.StreamResponse:
        try:
            exchange.outcome = answer.outcome
            headers = blob_headers(route, exchange.request_id, answer)
            if etag_matches(request.headers.get("If-None-Match"), answer.digest):
                return web.Response(status=304, headers=headers)
            if answer.content is not None:
                exchange.bytes_sent = len(answer.content)
                return web.Response(body=answer.content, headers=headers)
            return await self._send_blob(request, exchange, answer, headers)
        finally:
            await answer.release()

    async def _send_blob(
        self, request: web.BaseRequest, exchange: Exchange, answer: BlobAnswer, headers: dict[str, str]
    ) -> web.StreamResponse:
        part, size_bytes = answer.part, answer.size_bytes
        if part is not None and size_bytes is not None:
            headers["Content-Range"] = part.content_range(size_bytes)
        length = size_bytes if part is None else part.length
        if length is not None:
            headers["Content-Length"] = str(length)
        response = web.StreamResponse(status=200 if part is None else 206, headers=headers)
        if length is None and request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(request)
        exchange.headers_sent(response.status)
        if request.method != "HEAD":
            await self._send_content(request, exchange, answer, response)
        await response.write_eof()
        return response

    async def _send_content(
        self, request: web.BaseRequest, exchange: Exchange, answer: BlobAnswer, response: web.StreamResponse
    ) -> None:
        def sent(size_bytes: int) -> None:
            exchange.bytes_sent += size_bytes

        part = answer.part
        if answer.stream is not None:
            async with receiving(answer.stream) as intake:
                while content := await intake.take():
                    await response.write(bytes(content))  # a copy: the transport may keep what it is given
                    sent(len(content))
        elif answer.body is not None:
            first = 0 if part is None else part.first
            end = answer.size_bytes if part is None else part.last + 1
            await send_body(request, response, answer.body, first=first, end=end, sent=sent)

    # ---- lists and search

    async def search(self, request: web.BaseRequest, exchange: Exchange, target: Target) -> web.StreamResponse:
        """Answer ``/v1/search`` through the default upstream."""
        upstream = self._router.default
        exchange.kind, exchange.upstream = Kind.SEARCH, upstream.name
        query = target.query.get("q", "")
        if not query or len(query) > _SEARCH_TEXT_LIMIT:
            raise InvalidRequest(f"search for something: q=TEXT, of at most {_SEARCH_TEXT_LIMIT} characters")
        answer = await self._pull.lists.search(upstream, query, parse_page(target.query).limit)
        return self._list(request, exchange, answer, target=target)

    def ping_v1(self, exchange: Exchange) -> web.StreamResponse:
        """Answer ``/v1/_ping``; "not standalone" keeps Docker from sending a password with every search."""
        headers = {"X-Request-Id": exchange.request_id, "X-Docker-Registry-Standalone": "false"}
        return web.Response(body=b'{"standalone":false}', content_type="application/json", headers=headers)

    def _list(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        answer: ListAnswer,
        *,
        target: Target,
        route: Route | None = None,
        limit: int | None = None,
        content_type: str = "application/json",
    ) -> web.StreamResponse:
        exchange.outcome = answer.outcome
        headers = {"X-Request-Id": exchange.request_id} if route is None else common_headers(route, exchange.request_id)
        stale_seconds = None if answer.stale_seconds is None else -answer.stale_seconds
        headers |= status_headers(answer.outcome, stale_seconds, exchange.upstream or "")
        headers["Content-Type"] = content_type
        if answer.has_more and answer.last is not None:
            namespace = target.query.get("ns")
            headers["Link"] = render_next(target.path, limit=limit, last=answer.last, namespace=namespace)
        if answer.is_filtered:
            headers["OCI-Filters-Applied"] = "artifactType"
        exchange.bytes_sent = len(answer.body) if request.method != "HEAD" else 0
        return web.Response(body=answer.body, headers=headers)
