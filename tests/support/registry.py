"""An OCI registry for tests: real HTTP, switchable faults, a record of the requests, any kind of authentication.

In a test: ``async with TestRegistry() as registry``. As a process of its own, for clients and measurements outside of
the event loop: `tests.support.process.RegistryProcess`, or ``python -m tests.support.control --port 5001``.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import quote, unquote

from aiohttp import web
from multidict import CIMultiDict

from tests.support import content as changes
from tests.support.access import Gate
from tests.support.cdn import Cdn
from tests.support.content import Content, body_of
from tests.support.faults import Fault, FaultList, Redirect
from tests.support.images import OCI_INDEX, OCTET_STREAM, Blob, Pullable
from tests.support.record import Record, Recorded, select, sum_bytes
from tests.support.replies import Reply, error_reply, json_reply
from tests.support.server import LOOPBACK, FaultyServer

NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_WHOLE_PATHS = {"/v2": "ping", "/v2/": "ping", "/v2/_catalog": "catalog", "/v1/_ping": "search", "/v1/search": "search"}
_KINDS = {"manifests": "manifest", "blobs": "blob", "referrers": "referrers"}
_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_YEAR_SECONDS = 31536000


@dataclass(slots=True, kw_only=True)
class RateLimit:
    """A number of manifest GETs, counted and told as Docker Hub does; a HEAD tells and does not count."""

    limit: int
    remaining: int
    window_seconds: int = 21600
    retry_after_seconds: int | None = None
    source: str | None = None  # whom it counts for: an address, or an account's id

    def headers(self) -> dict[str, str]:
        """The headers that tell how many are left."""
        window = f"w={self.window_seconds}"
        told = {"RateLimit-Limit": f"{self.limit};{window}", "RateLimit-Remaining": f"{self.remaining};{window}"}
        return told if self.source is None else told | {"Docker-RateLimit-Source": self.source}


class TestRegistry:
    """A registry on loopback; every change takes effect at once, also while it serves.

    `redirects` are those of a healthy answer, by kind of request; `heal` leaves them as they are.
    """

    __test__ = False  # pytest: a helper, not a class of tests

    def __init__(
        self,
        *,
        port: int = 0,
        cdn_port: int = 0,
        gate: Gate | None = None,
        folder: Path | None = None,
        address: str = LOOPBACK,
        cdn_address: str = LOOPBACK,
    ) -> None:
        self._own_folder = tempfile.TemporaryDirectory(prefix="registry-") if folder is None else None
        self.content = Content(folder or Path(self._own_folder.name if self._own_folder else ""))
        self.record = Record()
        self.faults = FaultList()
        self.gate = gate
        self.redirects: dict[str, Redirect] = {}
        self.limit: RateLimit | None = None
        self.has_referrers = True
        self.referrers_page: int | None = None  # how many are on one page; None: all
        self.control: ControlSite | None = None
        self.server = FaultyServer(self, record=self.record, fault_list=self.faults, port=port, address=address)
        self.cdn = Cdn(self.content, record=self.record, fault_list=self.faults, port=cdn_port, address=cdn_address)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self.content.close()
        if self._own_folder is not None:
            self._own_folder.cleanup()

    async def start(self) -> None:
        """Listen, on the same ports as before if it was stopped."""
        await self.cdn.server.start()
        await self.server.start()

    async def stop(self) -> None:
        """Be gone: ports and connections closed; content, faults and record stay."""
        await self.server.stop()
        await self.cdn.server.stop()

    @property
    def base_url(self) -> str:
        """``http://address:port``."""
        return self.server.base_url

    @property
    def host(self) -> str:
        """``address:port``."""
        return self.server.host

    # Content

    def add(self, repository: str, tag: str | None, pullable: Pullable) -> None:
        """Add an image or index with all its blobs, and point a tag at it."""
        self.content.apply(changes.add_changes(self.content.folder, repository, tag, pullable))

    def add_blob(self, repository: str, blob: Blob) -> None:
        """Add a blob that no manifest needs to name."""
        self.content.apply(changes.blob_changes(self.content.folder, repository, blob))

    def add_manifest(self, repository: str, tag: str | None, body: bytes, media_type: str) -> str:
        """Add any bytes as a manifest; return their digest."""
        made, digest = changes.manifest_changes(self.content.folder, repository, tag, body, media_type)
        self.content.apply(made)
        return digest

    def tag(self, repository: str, tag: str, digest: str) -> None:
        """Point a tag at a manifest that is there."""
        self.content.apply([changes.tag_change(repository, tag, digest)])

    def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag; its manifest stays."""
        self.content.apply([changes.untag_change(repository, tag)])

    def delete(self, repository: str, digest: str) -> None:
        """Remove a manifest or blob from one repository."""
        self.content.apply([changes.forget_change(repository, digest)])

    # Faults

    def fail(self, *faults: Fault) -> None:
        """Set faults, after those already set."""
        self.faults.add(*faults)

    def heal(self) -> None:
        """Take every fault away and let go what is held."""
        self.faults.clear()
        self.release()

    def release(self) -> None:
        """Let requests go on that `Hang` or `Silence` holds now."""
        self.server.release()
        self.cdn.server.release()

    # Record

    @property
    def requests(self) -> list[Recorded]:
        """Every request since the start or `reset_record`, in the order of arrival."""
        return self.record.requests

    def count(self, **facts: object) -> int:
        """Count requests by any attribute: ``count(kind="blob", method="GET", status=200)``."""
        return len(select(self.requests, **facts))

    def bytes_sent(self, kind: str | None = None, *, reference: str | None = None) -> int:
        """Add up body bytes that sockets took; kind ``blob`` includes what the CDN sent."""
        return sum_bytes(select(self.requests, reference=reference), kind)

    def reset_record(self) -> None:
        """Forget the requests so far."""
        self.record.clear()

    async def until(self, condition: Callable[[], bool], *, timeout_seconds: float = 10.0) -> None:
        """Wait until a condition over the requests holds; checked whenever one arrives, is held, or ends."""
        await self.record.until(condition, timeout_seconds=timeout_seconds)

    async def until_held(self, number: int = 1) -> None:
        """Wait until so many requests are held by `Hang` or `Silence`."""
        await self.until(lambda: self.count(held=True) >= number)

    # Site: what the server asks of us

    def recognise(self, request: web.BaseRequest) -> Recorded | None:
        """Say what is asked for, from the right-hand end of the path."""
        raw_path = request.raw_path.partition("?")[0]
        if self.control is not None and raw_path.startswith("/_control/"):
            return None
        kind, name, reference = _parse(unquote(raw_path))
        if raw_path.startswith("/_cdn/"):
            kind = "cdn"
        return Recorded(
            method=request.method,
            path=raw_path,
            query=dict(request.rel_url.query),
            headers=CIMultiDict(request.headers),
            kind=kind,
            repository=name,
            reference=reference,
            range=request.headers.get("Range"),
        )

    async def answer(self, request: web.BaseRequest, recorded: Recorded | None) -> Reply:
        """Return the healthy answer to a request."""
        if recorded is None:
            return await self.control.answer(request) if self.control is not None else Reply(status=404)
        if recorded.kind == "cdn":
            return self.cdn.fetch(request)
        if recorded.method not in {"GET", "HEAD"}:
            return error_reply(405, "UNSUPPORTED", "the operation is unsupported")
        reply = self._refuse(recorded) or self._redirect(recorded, self._find(recorded))
        reply.headers.update(_VERSION)
        return reply

    def locate(self, recorded: Recorded, redirect: Redirect) -> str:
        """Return a signed link to the CDN, or the same path on another server."""
        if redirect.to is not None:
            return redirect.to + recorded.path
        target = self.cdn.sign(recorded.reference or "")
        return target if redirect.relative else self.cdn.server.base_url + target

    def _refuse(self, recorded: Recorded) -> Reply | None:
        name = recorded.repository
        if name is not None and not NAME.fullmatch(name):
            return error_reply(400, "NAME_INVALID", "invalid repository name", {"name": name})
        return self.gate.check(recorded) if self.gate is not None else None

    def _redirect(self, recorded: Recorded, found: Reply) -> Reply:
        redirect = self.redirects.get(recorded.kind)
        if redirect is None or not found.is_content:
            return found
        return Reply(status=redirect.status, headers=CIMultiDict({"Location": self.locate(recorded, redirect)}))

    def _find(self, recorded: Recorded) -> Reply:
        endpoints = {
            "ping": lambda _: json_reply({}),
            "manifest": self._manifest,
            "blob": self._blob,
            "tags": self._tags,
            "referrers": self._referrers,
            "catalog": lambda recorded: _page(recorded, "repositories", self.content.names, {}),
            "search": self._search,
        }
        find = endpoints.get(recorded.kind)
        return error_reply(404, "NAME_UNKNOWN", "no such endpoint") if find is None else find(recorded)

    def _manifest(self, recorded: Recorded) -> Reply:
        name, reference = recorded.repository or "", recorded.reference or ""
        if ":" in reference and not DIGEST.fullmatch(reference):
            return error_reply(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if ":" not in reference and not TAG.fullmatch(reference):
            return error_reply(400, "TAG_INVALID", "manifest tag did not match URI")
        limit = self.limit.headers() if self.limit is not None else {}
        if self.limit is not None and recorded.method == "GET":
            if self.limit.remaining <= 0:
                return _too_many(self.limit)
            self.limit.remaining -= 1
            limit = self.limit.headers()
        found = self.content.find_manifest(name, reference)
        if found is None:
            return error_reply(404, "MANIFEST_UNKNOWN", "manifest unknown", {"reference": reference})
        digest, media_type, manifest = found
        headers = CIMultiDict({**limit, "Content-Type": media_type})
        return _tagged(recorded, digest, Reply(status=200, headers=headers, body=body_of(manifest)))

    def _blob(self, recorded: Recorded) -> Reply:
        digest = recorded.reference or ""
        if not DIGEST.fullmatch(digest):
            return error_reply(400, "DIGEST_INVALID", "invalid digest", {"digest": digest})
        body = self.content.find_blob(recorded.repository or "", digest)
        if body is None:
            return error_reply(404, "BLOB_UNKNOWN", "blob unknown to registry", {"digest": digest})
        headers = CIMultiDict(
            {
                "Content-Type": OCTET_STREAM,
                "Accept-Ranges": "bytes",
                "Cache-Control": f"max-age={_YEAR_SECONDS}",
            }
        )
        return _tagged(recorded, digest, Reply(status=200, headers=headers, body=body, takes_ranges=True))

    def _tags(self, recorded: Recorded) -> Reply:
        tags = self.content.tags(recorded.repository or "")
        if tags is None:
            return error_reply(404, "NAME_UNKNOWN", "repository name not known to registry")
        return _page(recorded, "tags", tags, {"name": recorded.repository})

    def _referrers(self, recorded: Recorded) -> Reply:
        digest, wanted = recorded.reference or "", recorded.query.get("artifactType")
        if not self.has_referrers:
            return error_reply(404, "NAME_UNKNOWN", "no such endpoint")
        if not DIGEST.fullmatch(digest):
            return error_reply(400, "DIGEST_INVALID", "invalid digest", {"digest": digest})
        found = self.content.referrers(recorded.repository or "", digest)
        if wanted:
            found = [entry for entry in found if entry["artifactType"] == wanted]
        start, size = int(recorded.query.get("start", "0")), self.referrers_page or len(found)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found[start : start + size]}
        reply = json_reply(index, content_type=OCI_INDEX)
        if start + size < len(found):
            reply.headers["Link"] = f'<{recorded.path}?start={start + size}>; rel="next"'
        if wanted:
            reply.headers["OCI-Filters-Applied"] = "artifactType"
        return reply

    def _search(self, recorded: Recorded) -> Reply:
        if recorded.path == "/v1/_ping":
            return json_reply({"standalone": True, "version": "0.0"})
        text, limit = recorded.query.get("q", ""), int(recorded.query.get("n", "25"))
        names = [name for name in self.content.names if text.removeprefix("library/") in name][:limit]
        results = [
            {"name": name, "description": f"test {name}", "star_count": 7, "is_official": False, "is_automated": False}
            for name in names
        ]
        return json_reply(
            {
                "num_pages": 1,
                "num_results": len(results),
                "page": 1,
                "page_size": limit,
                "query": text,
                "results": results,
            }
        )


class ControlSite(Protocol):
    """Answers ``/_control/`` for a registry in a process of its own."""

    async def answer(self, request: web.BaseRequest) -> Reply:
        """Carry out one command."""
        ...


def _parse(path: str) -> tuple[str, str | None, str | None]:
    """Return kind, repository and reference of a path."""
    whole = _WHOLE_PATHS.get(path)
    if whole is not None:
        return whole, None, None
    match path.removeprefix("/v2/").rsplit("/", 2) if path.startswith("/v2/") else []:
        case [name, "manifests" | "blobs" | "referrers" as endpoint, reference]:
            return _KINDS[endpoint], name, reference
        case [name, "tags", "list"]:
            return "tags", name, None
        case _:
            return "other", None, None


def _tagged(recorded: Recorded, digest: str, reply: Reply) -> Reply:
    """Add what content by digest carries; answer 304 to a client that has it."""
    reply.headers["Docker-Content-Digest"] = digest
    reply.headers["ETag"] = f'"{digest}"'
    if recorded.headers.get("If-None-Match", "").strip('"') == digest:
        return Reply(status=304, headers=CIMultiDict({"ETag": f'"{digest}"', "Docker-Content-Digest": digest}))
    return reply


def _page(recorded: Recorded, key: str, names: list[str], rest: dict[str, Any]) -> Reply:
    """Return one page of a sorted list, with a link to the next."""
    text, last = recorded.query.get("n"), recorded.query.get("last")
    if text is not None and not text.isdecimal():
        return error_reply(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested", {"n": text})
    left = [name for name in names if last is None or name > last]
    shown = left if text is None else left[: int(text)]
    reply = json_reply({**rest, key: shown})
    if shown and len(shown) < len(left):
        reply.headers["Link"] = f'<{recorded.path}?last={quote(shown[-1], safe="")}&n={text}>; rel="next"'
    return reply


def _too_many(limit: RateLimit) -> Reply:
    reply = error_reply(
        429,
        "TOOMANYREQUESTS",
        "You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: "
        "https://www.docker.com/increase-rate-limits",
    )
    reply.headers.update(limit.headers())
    if limit.retry_after_seconds is not None:
        reply.headers["Retry-After"] = str(limit.retry_after_seconds)
    return reply
