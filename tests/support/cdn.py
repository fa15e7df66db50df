"""The other origin that blobs are redirected to: signed links, no registry credentials."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote, unquote

from aiohttp import web
from multidict import CIMultiDict

from tests.support.clock import MovableClock
from tests.support.content import Content, body_of
from tests.support.faults import FaultList, Redirect
from tests.support.images import OCTET_STREAM
from tests.support.record import Record, Recorded
from tests.support.replies import Reply
from tests.support.server import LOOPBACK, FaultyServer

_KEY = b"a key that only the registry and its CDN know"


class Cdn:
    """Serves blobs by links that are signed for GET, end, and break when anything in them is quoted anew."""

    def __init__(
        self, content: Content, *, record: Record, fault_list: FaultList, port: int = 0, address: str = LOOPBACK
    ) -> None:
        self._content = content
        self.clock = MovableClock()
        self.link_lives_seconds = 300
        self.signatures: set[str] = set()
        self.server = FaultyServer(self, record=record, fault_list=fault_list, port=port, address=address)

    def sign(self, digest: str) -> str:
        """Return path and query of a link to a blob."""
        expires = int(self.clock.now()) + self.link_lives_seconds
        self.signatures.add(_signature(digest, expires))
        return _link(digest, expires)

    def recognise(self, request: web.BaseRequest) -> Recorded:
        """Say which blob is asked for; a signed link goes into the record without its signature."""
        path = request.raw_path.partition("?")[0]
        return Recorded(
            method=request.method,
            path=path,
            query=dict(request.rel_url.query),
            headers=CIMultiDict(request.headers),
            kind="cdn",
            reference=unquote(path.rpartition("/")[2]).replace("~", ":"),
            range=request.headers.get("Range"),
        )

    async def answer(self, request: web.BaseRequest, recorded: Recorded | None) -> Reply:  # noqa: ARG002 - a Site's
        """Return the blob, or the XML that object stores answer."""
        if "Authorization" in request.headers:
            return _refusal(400, "InvalidArgument", "Only one auth mechanism allowed")
        return self.fetch(request)

    def fetch(self, request: web.BaseRequest) -> Reply:
        """Return the blob of a link that is exactly the signed one and has not ended."""
        path = request.raw_path.partition("?")[0]
        digest = unquote(path.rpartition("/")[2]).replace("~", ":")
        expires = request.rel_url.query.get("X-Amz-Expires", "")
        is_signed = expires.isdecimal() and hmac.compare_digest(request.raw_path, _link(digest, int(expires)))
        if not is_signed or request.method != "GET":
            return _refusal(403, "SignatureDoesNotMatch", "The request signature does not match")
        if self.clock.now() > int(expires):
            return _refusal(403, "AccessDenied", "Request has expired")
        body = self._content.open_blob(digest)
        if body is None:
            return _refusal(404, "NoSuchKey", "The specified key does not exist")
        headers = CIMultiDict({"Content-Type": OCTET_STREAM, "Accept-Ranges": "bytes", "ETag": f'"{digest[-32:]}"'})
        return Reply(status=200, headers=headers, body=body, takes_ranges=True)

    def locate(self, recorded: Recorded, redirect: Redirect) -> str:  # noqa: ARG002 - a Site's
        """Return a further signed link: two hops."""
        return self.server.base_url + self.sign(recorded.reference or "")


def _link(digest: str, expires: int) -> str:
    """Write a link with all that a client is tempted to quote anew: ``%2B %2F %3D ~ = + :``."""
    signature = _signature(digest, expires)
    credential = quote("AKIA+TEST/20240101/eu-west-1/s3/aws4_request", safe="")
    return (
        f"/_cdn/docker%2Fregistry/v2~blobs/data=sha/{digest.replace(':', '~')}?X-Amz-Credential={credential}"
        f"&X-Amz-Expires={expires}&se=2024-01-01T00%3A00%3A00Z&sp=r&X-Amz-Signature={signature}%2B%2F~x=="
    )


def _signature(digest: str, expires: int) -> str:
    return hmac.new(_KEY, f"{digest} {expires}".encode(), hashlib.sha256).hexdigest()


def _refusal(status: int, code: str, message: str) -> Reply:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status=status, headers=CIMultiDict({"Content-Type": "application/xml"}), body=body_of(text.encode()))
