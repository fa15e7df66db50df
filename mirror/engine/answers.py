"""What the engine answers: values that the web layer turns into HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mirror.errors import MirrorError

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from mirror.http.cache_status import Outcome
    from mirror.http.ranges import ByteRange
    from mirror.oci.descriptor import Descriptor
    from mirror.oci.digest import Digest
    from mirror.ports import BlobStream, Body


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestAnswer:
    """A manifest, or for a HEAD only what it is; ``ttl_seconds`` is what a tag has left, negative when it is stale."""

    descriptor: Descriptor
    outcome: Outcome
    body: bytes | None = None
    ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobAnswer:
    """A blob, a part of it (``part``), or for a HEAD only its size.

    One of ``body`` (a file, perhaps growing), ``content`` (all of a small one) and ``stream`` (a range that lies far
    ahead, passed through) is set, none for a HEAD. Whoever gets this awaits ``release`` when it has been sent.
    """

    digest: Digest
    outcome: Outcome
    size_bytes: int | None
    part: ByteRange | None = None
    body: Body | None = None
    content: bytes | None = None
    stream: BlobStream | None = None
    resources: AsyncExitStack | None = None

    async def release(self) -> None:
        """Let go of the file or the transfer."""
        if self.resources is not None:
            await self.resources.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAnswer:
    """A list as JSON, whether there is more of it, and whether it is only what was asked for by type."""

    body: bytes
    outcome: Outcome
    has_more: bool = False
    last: str | None = None
    is_filtered: bool = False
    stale_seconds: int | None = None


class Remembered(MirrorError):
    """A refusal that was given before and is remembered for another while; ``error`` is the refusal itself."""

    def __init__(self, error: MirrorError, *, ttl_seconds: int) -> None:
        """Keep the first answer and how long it holds."""
        super().__init__(str(error))
        self.error = error
        self.ttl_seconds = ttl_seconds
