"""The one table from our errors to status, code and headers."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from mirror import errors
from mirror.engine.answers import Remembered
from mirror.http.cache_status import Outcome, cache_status
from mirror.oci.error_codes import ErrorCode, error_body

if TYPE_CHECKING:
    from collections.abc import Mapping

# The first class that an error is an instance of counts, so a subclass stands before its base.
_TABLE: tuple[tuple[type[errors.MirrorError], int, ErrorCode], ...] = (
    (errors.NameInvalid, 400, ErrorCode.NAME_INVALID),
    (errors.DigestInvalid, 400, ErrorCode.DIGEST_INVALID),
    (errors.ReferenceInvalid, 400, ErrorCode.MANIFEST_INVALID),
    (errors.InvalidRequest, 400, ErrorCode.UNSUPPORTED),
    (errors.RangeUnsatisfiable, 416, ErrorCode.SIZE_INVALID),
    (errors.Unsupported, 405, ErrorCode.UNSUPPORTED),
    (errors.Unauthorized, 401, ErrorCode.UNAUTHORIZED),
    (errors.TooManyRequests, 429, ErrorCode.TOOMANYREQUESTS),
    (errors.Denied, 403, ErrorCode.DENIED),
    (errors.ManifestUnknown, 404, ErrorCode.MANIFEST_UNKNOWN),
    (errors.BlobUnknown, 404, ErrorCode.BLOB_UNKNOWN),
    (errors.NotFound, 404, ErrorCode.NAME_UNKNOWN),
    (errors.NotStored, 404, ErrorCode.MANIFEST_UNKNOWN),
    (errors.Refused, 409, ErrorCode.DENIED),
    # 503 and not 429: containerd repeats a 429 at once, podman sleeps on it; both turn elsewhere on 503
    (errors.RateLimited, 503, ErrorCode.TOOMANYREQUESTS),
    (errors.UpstreamUnreachable, 504, ErrorCode.UNAVAILABLE),
    (errors.UpstreamError, 502, ErrorCode.UNAVAILABLE),
    (errors.StorageError, 503, ErrorCode.UNAVAILABLE),
    (errors.MirrorError, 500, ErrorCode.UNAVAILABLE),
)

LINE_LIMIT_BYTES: Final = 8190
FIELD_LIMIT_BYTES: Final = 8192
"""Of a request's target and of one header: two numbers, since the parser's error tells the number alone."""
FIELDS_LIMIT: Final = 128
_MANY_FIELDS: Final = "Too many headers received"  # aiohttp's own words

_ALLOW: Mapping[str, str] = {"Allow": "GET, HEAD"}
_CHALLENGE: Mapping[str, str] = {"WWW-Authenticate": 'Basic realm="mirror"'}


def describe(error: errors.MirrorError) -> tuple[int, ErrorCode]:
    """Return the status and the code of an error."""
    if isinstance(error, Remembered):
        error = error.error
    return next((status, code) for kind, status, code in _TABLE if isinstance(error, kind))


def headers(error: errors.MirrorError) -> Mapping[str, str]:
    """Return the headers that an error's answer needs beside its body."""
    if isinstance(error, Remembered):
        return {"Cache-Status": cache_status(Outcome.NEGATIVE, ttl_seconds=error.ttl_seconds)}
    if isinstance(error, errors.RangeUnsatisfiable):
        return {"Content-Range": f"bytes */{error.size_bytes}"}
    if isinstance(error, errors.Unsupported | errors.Unauthorized):
        return _ALLOW if isinstance(error, errors.Unsupported) else _CHALLENGE
    if isinstance(error, errors.TooManyRequests | errors.RateLimited) and error.retry_after_seconds is not None:
        return {"Retry-After": str(math.ceil(error.retry_after_seconds))}
    return {"Cache-Status": cache_status(Outcome.MISS, forward_status=describe(error)[0])} if _is_answer(error) else {}


def _is_answer(error: errors.MirrorError) -> bool:
    """Tell whether it is what an upstream has just said."""
    is_other = isinstance(error, errors.NameUnknown) or (isinstance(error, errors.NotFound) and not error.was_asked)
    return isinstance(error, (errors.NotFound, errors.Denied)) and not is_other


def refusal(error: BaseException | None) -> tuple[HTTPStatus, str]:
    """Return status and message for what aiohttp's parser has refused.

    Spec: https://www.rfc-editor.org/rfc/rfc9110#section-15.5.15, https://www.rfc-editor.org/rfc/rfc6585#section-5
    """
    if isinstance(error, LineTooLong) and error.args[1] == LINE_LIMIT_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG, f"the request's target is longer than {LINE_LIMIT_BYTES} bytes"
    if isinstance(error, LineTooLong):
        fields = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return fields, f"a header of the request is longer than {FIELD_LIMIT_BYTES} bytes"
    if isinstance(error, BadHttpMessage) and error.message == _MANY_FIELDS:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request has more than {FIELDS_LIMIT} headers"
    return HTTPStatus.BAD_REQUEST, "this is not a request that a registry understands"


def body(error: errors.MirrorError) -> bytes:
    """Return the error as the specification's JSON."""
    _, code = describe(error)
    return error_body(code, str(error))
