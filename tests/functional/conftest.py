"""An upstream, and mirrors in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.mirrors import settings
from tests.support.pulling import MirrorClient, mirror_client
from tests.support.registry import TestRegistry

StartMirror = Callable[..., Awaitable[MirrorClient]]


@pytest.fixture
async def registry() -> AsyncIterator[TestRegistry]:
    """An empty upstream."""
    async with TestRegistry() as started:
        yield started


@pytest.fixture
async def start_mirror(tmp_path: Path) -> AsyncIterator[StartMirror]:
    """Start a mirror of Docker Hub (``upstream`` is its URL), or with ``upstreams`` of several registries."""
    async with AsyncExitStack() as stack:

        async def start(
            upstream: str | None = None,
            *,
            upstreams: Mapping[str, str] | None = None,
            overrides: Mapping[str, object] | None = None,
            environ: Mapping[str, str] | None = None,
            public: str | None = None,
            **cache: object,
        ) -> MirrorClient:
            urls = {} if upstream is None else {"docker.io": upstream}
            made = settings({**urls, **(upstreams or {})}, **cache)
            flags = {**made, **(overrides or {})}
            return await stack.enter_async_context(mirror_client(tmp_path / "cache", flags, environ, public=public))

        yield start


@pytest.fixture
async def client(registry: TestRegistry, start_mirror: StartMirror) -> MirrorClient:
    """A mirror of ``registry`` with every setting at its default."""
    return await start_mirror(registry.base_url)
