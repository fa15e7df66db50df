"""Small stored blobs in memory: every image has one, its configuration, which every client asks for."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from mirror.oci.digest import Digest

if TYPE_CHECKING:
    from mirror.ports import Body, Memory

SMALL_BYTES: Final = 64 * 1024


class SmallBlobs:
    """Keeps what was read; who may have it, others decide."""

    def __init__(self, memory: Memory[bytes]) -> None:
        """Take a memory that is bounded by bytes."""
        self._memory = memory

    def peek(self, digest: Digest) -> bytes | None:
        """Return a blob that is in memory."""
        return self._memory.peek(str(digest))

    async def load(self, digest: Digest, stored: Body) -> bytes | None:
        """Return an open blob's bytes, in memory from now on; None where it is large, or its file is damaged."""
        size_bytes = stored.size_bytes
        if size_bytes is None or size_bytes > SMALL_BYTES or stored.readable_now() != size_bytes:
            return None
        content = await asyncio.to_thread(_read, digest, stored.fileno(), size_bytes)
        if content is not None:
            await self._memory.put(str(digest), content, weight=size_bytes)
        return content


def _read(digest: Digest, descriptor: int, size_bytes: int) -> bytes | None:
    """Read and hash: what is in memory is not held against its file any more."""
    try:
        content = os.pread(descriptor, size_bytes, 0)
    except OSError:  # whoever sends the file finds out too, and can say so
        return None
    return content if Digest.of(content, digest.algorithm) == digest else None
