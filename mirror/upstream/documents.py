"""Reading what an upstream sends whole, manifests and lists: within a length, a time and a memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

import aiohttp

from mirror.errors import UpstreamInvalid, quote
from mirror.upstream.blob_stream import broken_off

if TYPE_CHECKING:
    from collections.abc import Callable

    from mirror.oci.requests import Kind
    from mirror.ports import UpstreamObserver

T = TypeVar("T")

_SILENCES: Final = 2  # how often the longest silence there may be is waited for all of a document
_DONE_AT_ONCE_BYTES: Final = 256 * 1024
_LARGE_AT_A_TIME: Final = 2


class DocumentReader:
    """Reads the documents of one upstream."""

    def __init__(self, upstream: str, *, read_timeout_seconds: float, observer: UpstreamObserver) -> None:
        """Take the upstream's name, and how long it may be silent."""
        self._upstream = upstream
        self._time_limit_seconds = _SILENCES * read_timeout_seconds
        self._observer = observer
        self._working = asyncio.Semaphore(_LARGE_AT_A_TIME)

    async def read(self, response: aiohttp.ClientResponse, kind: Kind, limit_bytes: int) -> bytes:
        """Read a body whole.

        Raises:
            UpstreamInvalid: it is compressed, or longer than the limit.
            UpstreamUnreachable: it broke off, or came too slowly.
        """
        refuse_encoding(self._upstream, response)
        chunks = []
        size = 0
        try:
            async with asyncio.timeout(self._time_limit_seconds):
                while chunk := await response.content.readany():
                    self._observer.upstream_sent(self._upstream, kind, len(chunk))
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > limit_bytes:
                        message = f"{self._upstream} sent more than {limit_bytes} bytes"
                        raise UpstreamInvalid(message, upstream=self._upstream)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise broken_off(self._upstream, error) from error
        return b"".join(chunks)

    async def work_on(self, size_bytes: int, work: Callable[[], T]) -> T:
        """Do what a text of this size takes: what is large in a thread, since 4 MiB take a quarter of a second.

        Two at a time: the objects in it take up to twenty times the room of the text.
        """
        if size_bytes <= _DONE_AT_ONCE_BYTES:
            return work()
        async with self._working:
            return await asyncio.to_thread(work)


def refuse_encoding(upstream: str, response: aiohttp.ClientResponse) -> None:
    """Refuse what is compressed although ``identity`` was asked for: digests are over bytes as they are.

    Raises:
        UpstreamInvalid: it is compressed.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in {"", "identity"}:
        message = f"{upstream} sent Content-Encoding {quote(encoding)} although identity was asked for"
        raise UpstreamInvalid(message, upstream=upstream)
