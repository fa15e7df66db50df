"""One registry: manifests, blobs, lists and search, in our types."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from mirror.errors import DigestInvalid, ManifestInvalid, UpstreamInvalid
from mirror.http.ranges import parse_content_range
from mirror.oci import manifest as manifests
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT_BYTES, Manifest
from mirror.oci.media_types import MANIFEST_ACCEPT, is_vendor_json
from mirror.oci.requests import Kind
from mirror.ports import UpstreamState
from mirror.upstream.blob_stream import HttpBlobStream
from mirror.upstream.documents import DocumentReader, refuse_encoding
from mirror.upstream.listings import Listings
from mirror.upstream.transport import Call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from mirror.config import UpstreamConfig
    from mirror.oci.reference import Reference, Repository
    from mirror.oci.requests import Page
    from mirror.policy import TagLifetime
    from mirror.ports import Clock, UpstreamObserver
    from mirror.upstream.auth import Authenticator
    from mirror.upstream.endpoints import Endpoints
    from mirror.upstream.transport import Transport

_ACCEPT = {"Accept": ", ".join(MANIFEST_ACCEPT)}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LENGTH_DIGITS = 18
_KEPT_FOR_SMALL = 4  # connections that blobs leave to manifests and tags


class RegistryClient:
    """The client of one configured upstream."""

    def __init__(
        self,
        config: UpstreamConfig,
        transport: Transport,
        auth: Authenticator,
        endpoints: Endpoints,
        *,
        tag_lifetime: TagLifetime,
        observer: UpstreamObserver,
        clock: Clock,
    ) -> None:
        """Join the parts."""
        self._config = config
        self._transport = transport
        self._auth = auth
        self._endpoints = endpoints
        self._clock = clock
        self._tag_lifetime = tag_lifetime
        self._observer = observer
        self._documents = DocumentReader(
            config.name, read_timeout_seconds=config.read_timeout_seconds, observer=observer
        )
        self._listings = Listings(config, transport, self._documents)
        self._blob_slots = asyncio.Semaphore(max(1, config.max_connections - _KEPT_FOR_SMALL))

    @property
    def name(self) -> str:
        """The name in the configuration: a label, a cache key."""
        return self._config.name

    @property
    def tag_lifetime(self) -> TagLifetime:
        """How long its tags are fresh and may be stale; longer while only the reserve of its rate limit is left."""
        left = self._reserve_left()
        return self._tag_lifetime if left is None else self._tag_lifetime.stretched(left)

    @property
    def is_offline(self) -> bool:
        """Say no: this is the client of one that is asked."""
        return False

    def is_at_reserve(self) -> bool:
        """Say whether what is left of its rate limit is for what is not cached."""
        return self._reserve_left() is not None

    def _reserve_left(self) -> float | None:
        return self._endpoints.preferred.limit.reserve_left(self._config.ratelimit_reserve, self._clock())

    @property
    def parallel(self) -> int:
        """How many connections one large blob may use."""
        return min(self._config.parallel, max(1, self._config.max_connections - _KEPT_FOR_SMALL))

    def is_struggling(self) -> bool:
        """Say whether it has lately failed to answer in time."""
        return not self._endpoints.is_up()

    def is_private(self, repository: Repository) -> bool:
        """Say whether a credential was shown for what this repository has given."""
        return self._auth.is_opened_by_credential(repository.name)

    async def state(self) -> UpstreamState:
        """Say how things stand."""
        credential, is_refused = await self._auth.describe_credential()
        limit = self._endpoints.preferred.limit
        return UpstreamState(
            name=self.name,
            is_up=self._endpoints.is_up() if self._endpoints.is_known() else None,
            credential=credential,
            is_refused=is_refused,
            limit=limit.limit,
            remaining=limit.remaining,
            wait_seconds=limit.wait_seconds(is_counted=True, now=self._clock()),
        )

    def note_wrong_content(self) -> None:
        """Prefer another endpoint, where there is one."""
        self._endpoints.note_wrong_content()

    async def resolve(self, repository: Repository, reference: Reference) -> Descriptor | None:
        """Ask by HEAD what a reference is; None where this registry does not say enough in a HEAD."""
        call = Call(
            method="HEAD",
            path=f"{repository.name}/manifests/{reference}",
            repository=repository.name,
            kind=Kind.MANIFEST,
            headers=_ACCEPT,
            expected=frozenset({200, 401, 403, 405}),
        )
        async with self._transport.request(call) as response:
            if response.status != HTTPStatus.OK:
                return None  # some registries refuse a HEAD and not the GET: that one decides
            return _descriptor(response.headers, reference)

    async def fetch_manifest(self, repository: Repository, reference: Reference) -> Manifest:
        """Get a manifest, checked against the digest where that is the reference.

        Raises:
            UpstreamInvalid: the answer is no manifest, or another one.
        """
        call = Call(
            method="GET",
            path=f"{repository.name}/manifests/{reference}",
            repository=repository.name,
            kind=Kind.MANIFEST,
            headers=_ACCEPT,
        )
        async with self._transport.request(call) as response:
            body = await self._documents.read(response, Kind.MANIFEST, MANIFEST_LIMIT_BYTES)
            told = None if isinstance(reference, Digest) else response.headers.get("Docker-Content-Digest")
            try:
                digest = reference if isinstance(reference, Digest) else None if told is None else Digest.parse(told)
                content_type = response.headers.get("Content-Type")
                return await self._documents.work_on(
                    len(body), lambda: manifests.parse(body, content_type=content_type, digest=digest)
                )
            except (ManifestInvalid, DigestInvalid) as error:
                message = f"{self.name} sent a wrong manifest for {repository.name}: {error}"
                raise UpstreamInvalid(message, upstream=self.name) from error

    async def find_blob_size(self, repository: Repository, digest: Digest) -> int | None:
        """Confirm that the repository holds the blob; its size, where the upstream tells.

        A redirect is not followed: a URL signed for GET refuses a HEAD. Then, and where a HEAD is refused (public
        ECR), a GET of one byte decides.
        """
        call = self._blob_call("HEAD", repository, digest, follow=False, expected=_REDIRECTS | {200, 401, 403, 405})
        async with self._transport.request(call) as response:
            if response.status == HTTPStatus.OK:
                return _length(response.headers.get("Content-Length"))
        async with self.open_blob(repository, digest, first=0, last=0) as stream:
            return stream.size_bytes

    @asynccontextmanager
    async def open_blob(
        self, repository: Repository, digest: Digest, *, first: int = 0, last: int | None = None
    ) -> AsyncIterator[HttpBlobStream]:
        """Start a transfer at ``first``; ``last`` is inclusive. An upstream without ranges starts at 0.

        Raises:
            UpstreamInvalid: another range than the one asked for.
        """
        headers = {}
        if first > 0 or last is not None:
            headers["Range"] = f"bytes={first}-{'' if last is None else last}"
        call = self._blob_call("GET", repository, digest, headers=headers, expected=frozenset({200, 206}))
        async with self._blob_slots, self._transport.request(call) as response:
            refuse_encoding(self.name, response)
            if response.status == HTTPStatus.OK:
                size = _length(response.headers.get("Content-Length"))
                yield self._stream(response, 0, size)
                return
            sent = parse_content_range(response.headers.get("Content-Range"))
            if not headers or sent is None or sent.range.first != first:
                message = f"{self.name} sent another range of {digest} than the one asked for"
                raise UpstreamInvalid(message, upstream=self.name)
            yield self._stream(response, first, sent.size_bytes)

    def _stream(self, response: aiohttp.ClientResponse, offset: int, size_bytes: int | None) -> HttpBlobStream:
        silence_seconds = self._config.read_timeout_seconds
        return HttpBlobStream(response, offset, size_bytes, self.name, self._observer, silence_seconds)

    def _blob_call(
        self,
        method: str,
        repository: Repository,
        digest: Digest,
        *,
        expected: frozenset[int],
        headers: dict[str, str] | None = None,
        follow: bool = True,
    ) -> Call:
        return Call(
            method=method,
            path=f"{repository.name}/blobs/{digest}",
            repository=repository.name,
            kind=Kind.BLOB,
            headers=headers or {},
            follow=follow,
            expected=expected,
        )

    async def list_tags(self, repository: Repository, page: Page) -> tuple[Sequence[str], bool]:
        """Return the tags of an upstream's page, and whether there is more."""
        return await self._listings.tags(repository, page)

    async def list_referrers(self, repository: Repository, digest: Digest) -> bytes:
        """Return the index of all manifests that point at a digest, as JSON."""
        return await self._listings.referrers(repository, digest)

    async def search(self, query: str, limit: int | None) -> bytes:
        """Return the answer of the registry's search, as JSON.

        Raises:
            NotFound: this upstream has none.
        """
        return await self._listings.search(query, limit)


def _descriptor(headers: Mapping[str, str], reference: Reference) -> Descriptor | None:
    """Read a manifest's HEAD; None unless type, digest and length are all there."""
    media_type = headers.get("Content-Type", "").partition(";")[0].strip()
    size = _length(headers.get("Content-Length"))
    told = headers.get("Docker-Content-Digest")
    if not is_vendor_json(media_type) or not size:
        return None
    try:
        digest = reference if isinstance(reference, Digest) else Digest.parse(told or "")
    except DigestInvalid:
        return None
    return Descriptor(media_type=media_type, digest=digest, size_bytes=size)


def _length(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS else None
