"""Operations that only look: ``status``, ``ls``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from mirror.errors import NotStored
from mirror.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from mirror.control.operations import Arguments, Document, Report
    from mirror.oci.image_name import ImageName, ImageNames
    from mirror.oci.reference import Repository
    from mirror.ports import ListedImage, Space, Totals, Underway

_PAGE_MANIFESTS = 200


class Accounts(Protocol):
    """What is known of what is stored."""

    async def totals(self) -> Totals:
        """Return how much is stored."""
        ...

    async def next_repository(self, after: str) -> Repository | None:
        """Return the first repository, in lexical order, whose name comes behind ``after``."""
        ...

    async def repository_size(self, repository: Repository) -> int:
        """Return the bytes that are stored of a repository."""
        ...

    async def images(
        self, repository: Repository, after: str, *, limit: int
    ) -> tuple[Sequence[ListedImage], str | None]:
        """Return the images among the next ``limit`` manifests of a repository, and where to go on; None at the end."""
        ...


class Files(Protocol):
    """The files of the store."""

    async def space(self) -> Space:
        """Measure."""
        ...

    async def underway(self) -> Sequence[Underway]:
        """List the blobs of which there is a part."""
        ...


class Looking:
    """Says how things stand with a cache folder, and with the server that runs on it."""

    def __init__(
        self,
        accounts: Accounts,
        files: Files,
        *,
        bounds: Document,
        server: Callable[[], Awaitable[Document]] | None = None,
    ) -> None:
        """Join the parts; ``bounds`` is what is shown of the configuration, ``server`` tells of a running server."""
        self._accounts = accounts
        self._files = files
        self._bounds = bounds
        self._server = server

    async def status(self, _arguments: Arguments, _report: Report) -> Document:
        """Return what is stored, its bounds, what is being downloaded, and what the server knows."""
        totals, space = await self._accounts.totals(), await self._files.space()
        return {
            "server": None if self._server is None else await self._server(),
            "cache": {
                **self._bounds,
                "size_bytes": totals.size_bytes,
                "objects": {kind.value: number for kind, number in totals.objects.items()},
                "free_bytes": space.free_bytes,
            },
            "downloads": [_underway(one) for one in await self._files.underway()],
        }


def _underway(one: Underway) -> Document:
    return {
        "repository": str(one.origin.repository),
        "digest": str(one.digest),
        "size_bytes": one.origin.size_bytes,
        "arrived_bytes": one.arrived_bytes,
    }


class Listing:
    """Says what is stored, image by image; a large cache in many small steps."""

    def __init__(self, accounts: Accounts, names: ImageNames, upstreams: Collection[str]) -> None:
        """Join the parts."""
        self._accounts = accounts
        self._names = names
        self._upstreams = upstreams

    async def list(self, arguments: Arguments, report: Report) -> Document:
        """Report the images of each repository, or of the one that is asked for; return how many there are."""
        text = arguments.find_text("repository")
        wanted = None if text is None or text in self._upstreams else self._names.parse(text)
        number = 0
        async for repository in self._repositories(text if wanted is None else None, wanted):
            number += await self._report(repository, wanted, report)
        if wanted is not None and not number:
            raise NotStored(f"{wanted} is not in this cache; mirror ls says what is")
        return {"images": number}

    async def _repositories(self, upstream: str | None, wanted: ImageName | None) -> AsyncIterator[Repository]:
        if wanted is not None:
            yield wanted.repository
            return
        after = "" if upstream is None else f"{upstream}/"
        while (repository := await self._accounts.next_repository(after)) is not None:
            if upstream is not None and repository.upstream != upstream:
                return
            yield repository
            after = str(repository)

    async def _report(self, repository: Repository, wanted: ImageName | None, report: Report) -> int:
        size_bytes, number, after = await self._accounts.repository_size(repository), 0, ""
        while True:
            images, next_after = await self._accounts.images(repository, after, limit=_PAGE_MANIFESTS)
            shown = [_image(one) for one in images if wanted is None or _is_meant(one, wanted)]
            if shown:
                await report({"repository": str(repository), "size_bytes": size_bytes, "images": shown})
            number += len(shown)
            if next_after is None:
                return number
            after = next_after


def _is_meant(image: ListedImage, wanted: ImageName) -> bool:
    if wanted.reference is None:
        return True
    return (
        image.digest == wanted.reference
        if isinstance(wanted.reference, Digest)
        else str(wanted.reference) in image.tags
    )


def _image(image: ListedImage) -> Document:
    return {
        "digest": str(image.digest),
        "tags": list(image.tags),
        "pins": list(image.pins),
        "size_bytes": image.size_bytes,
        "last_used": datetime.fromtimestamp(image.used_at, UTC).isoformat(timespec="seconds"),
    }
