"""What a registry lists: tags, referrers and the results of its search, understood before it is handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from yarl import URL

from mirror.errors import ManifestInvalid, NotFound, UpstreamInvalid
from mirror.http.links import next_page
from mirror.oci.documents import load_listing, write_listing
from mirror.oci.media_types import OCI_INDEX
from mirror.oci.reference import is_tag
from mirror.oci.requests import Kind
from mirror.upstream.transport import Call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import aiohttp

    from mirror.config import UpstreamConfig
    from mirror.oci.digest import Digest
    from mirror.oci.reference import Repository
    from mirror.oci.requests import Page
    from mirror.upstream.documents import DocumentReader
    from mirror.upstream.transport import Transport

_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Of one list, on however many pages."""
_MOST_PAGES: Final = 100


class Listings:
    """The lists of one upstream."""

    def __init__(self, config: UpstreamConfig, transport: Transport, documents: DocumentReader) -> None:
        """Join the parts."""
        self._name = config.name
        self._search_endpoint = config.search_endpoint
        self._transport = transport
        self._documents = documents

    async def tags(self, repository: Repository, page: Page) -> tuple[Sequence[str], bool]:
        """Return a page of tags, and whether there is more; what can be no tag is left out."""
        query = {} if page.limit is None else {"n": str(page.limit)}
        if page.last is not None:
            query["last"] = page.last
        path = f"{repository.name}/tags/list"
        call = Call(method="GET", path=path, repository=repository.name, kind=Kind.TAGS, query=query)
        async with self._transport.request(call) as response:
            _, document = await self._read(response, Kind.TAGS, _LIMIT_BYTES)
            tags = document.get("tags") or []
            if not isinstance(tags, list):
                raise self._wrong("tags")
            has_more = next_page(response.headers.getall("Link", ())) is not None
            return [tag for tag in tags if isinstance(tag, str) and is_tag(tag)], has_more

    async def referrers(self, repository: Repository, digest: Digest) -> bytes:
        """Return the index of all manifests that point at a digest, as JSON, put together from the upstream's pages.

        Raises:
            UpstreamInvalid: the pages have no end, or are no index.
        """
        query: Mapping[str, str] = {}
        index: dict[str, Any] = {}
        manifests: list[object] = []
        left_bytes = _LIMIT_BYTES
        for _ in range(_MOST_PAGES):
            size_bytes, page, query = await self._referrers_page(repository, digest, query, left_bytes)
            left_bytes -= size_bytes
            index = index or page
            manifests += page.get("manifests") or []
            if not query:
                return await self._write({**index, "manifests": manifests}, _LIMIT_BYTES - left_bytes)
        raise UpstreamInvalid(f"{self._name} lists referrers of {digest} without end", upstream=self._name)

    async def _referrers_page(
        self, repository: Repository, digest: Digest, query: Mapping[str, str], limit_bytes: int
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Return a page, its size, and the query that leads to the next: of a link only that counts."""
        call = Call(
            method="GET",
            path=f"{repository.name}/referrers/{digest}",
            repository=repository.name,
            kind=Kind.REFERRERS,
            headers={"Accept": OCI_INDEX},
            query=query,
        )
        async with self._transport.request(call) as response:
            body, page = await self._read(response, Kind.REFERRERS, limit_bytes)
            manifests = page.get("manifests") or []
            if not isinstance(manifests, list) or not all(isinstance(one, dict) for one in manifests):
                raise self._wrong("referrers")
            return len(body), page, _query_of(next_page(response.headers.getall("Link", ())))

    async def search(self, query: str, limit: int | None) -> bytes:
        """Return the answer of the registry's search, as JSON.

        Raises:
            NotFound: this upstream has none.
        """
        if self._search_endpoint is None:
            raise NotFound(f"{self._name} has no search")
        parameters = {"q": query} if limit is None else {"q": query, "n": str(limit)}
        url = URL(self._search_endpoint) / "v1/search"
        async with self._transport.request_outside(url, parameters, Kind.SEARCH) as response:
            body, _ = await self._read(response, Kind.SEARCH, _LIMIT_BYTES)
            return body

    async def _read(
        self, response: aiohttp.ClientResponse, kind: Kind, limit_bytes: int
    ) -> tuple[bytes, dict[str, Any]]:
        """Read a body that must be a JSON object: a web page with status 200 is no list of tags."""
        body = await self._documents.read(response, kind, limit_bytes)
        try:
            return body, await self._documents.work_on(len(body), lambda: load_listing(body))
        except ManifestInvalid:
            raise UpstreamInvalid(f"{self._name} answered something else than JSON", upstream=self._name) from None

    async def _write(self, document: object, size_bytes: int) -> bytes:
        try:
            return await self._documents.work_on(size_bytes, lambda: write_listing(document))
        except ManifestInvalid:
            raise self._wrong("referrers") from None

    def _wrong(self, wanted: str) -> UpstreamInvalid:
        return UpstreamInvalid(f"{self._name} sent something else than {wanted}", upstream=self._name)


def _query_of(link: str | None) -> Mapping[str, str]:
    """Return the query of a link; nothing where there is no link, or none that leads further."""
    try:
        return {} if link is None else dict(URL(link).query)
    except ValueError:
        return {}
