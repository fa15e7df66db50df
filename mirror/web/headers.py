"""The headers of the registry's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.http.cache_status import Outcome, cache_status
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCTET_STREAM
from mirror.oci.requests import ManifestRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mirror.engine.answers import BlobAnswer, ManifestAnswer
    from mirror.web.routes import Route

_FOR_EVER = "max-age=31536000, immutable"
API_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}


def common_headers(route: Route, request_id: str) -> dict[str, str]:
    """Return what every answer below ``/v2`` carries."""
    headers = API_VERSION | {"X-Request-Id": request_id, "Cache-Status": "mirror"}
    if route.namespace is not None and route.upstream is not None:
        headers["OCI-Namespace"] = route.namespace
    return headers


def manifest_headers(route: Route, request_id: str, answer: ManifestAnswer) -> dict[str, str]:
    """Return those of a manifest, except for its length."""
    headers = common_headers(route, request_id)
    headers |= status_headers(answer.outcome, answer.ttl_seconds, _name(route))
    headers |= _content_headers(answer.descriptor.digest, answer.descriptor.media_type)
    if isinstance(route.request, ManifestRequest) and isinstance(route.request.reference, Digest):
        headers["Cache-Control"] = _FOR_EVER
    return headers


def blob_headers(route: Route, request_id: str, answer: BlobAnswer) -> dict[str, str]:
    """Return those of a blob, except for which part of it is sent."""
    headers = common_headers(route, request_id)
    headers |= status_headers(answer.outcome, None, _name(route))
    headers |= _content_headers(answer.digest, OCTET_STREAM)
    headers |= {"Accept-Ranges": "bytes", "Cache-Control": _FOR_EVER}
    return headers


def _name(route: Route) -> str:
    return "" if route.upstream is None else route.upstream.name


def _content_headers(digest: Digest, media_type: str) -> Mapping[str, str]:
    text = str(digest)
    return {"Content-Type": media_type, "Docker-Content-Digest": text, "ETag": f'"{text}"'}


def status_headers(outcome: Outcome, ttl_seconds: int | None, upstream: str) -> Mapping[str, str]:
    """Return what an answer says about the cache; a stale one warns in words that clients show."""
    headers = {"Cache-Status": cache_status(outcome, ttl_seconds=ttl_seconds)}
    if outcome is Outcome.STALE:
        age = -(ttl_seconds or 0)
        headers["Warning"] = f'299 - "{upstream} cannot answer; this answer ran out {age} s ago"'
    return headers
