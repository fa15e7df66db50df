"""Every kind of registry through one mirror by dockerd, while it is there and when it is gone."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.functional.test_many_upstreams import place_credentials, table
from tests.support.clients import Dockerd
from tests.support.habits import HABITS
from tests.support.mirrors import MirrorProcess

pytestmark = pytest.mark.clients


async def test_each_image_of_each_registry_pulls_while_it_is_there_and_when_it_is_gone(
    dockerd: Dockerd, mirror_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        habits = [await stack.enter_async_context(kind()) for kind in HABITS]
        (tmp_path / "mirror").mkdir()
        extra = "".join(table(habit, tmp_path) for habit in habits)
        port = int(mirror_host.rpartition(":")[2])
        mirror = MirrorProcess({}, folder=tmp_path / "mirror", extra=extra, port=port)
        place_credentials(habits, mirror, tmp_path, monkeypatch)
        images = {
            f"{mirror_host}/{habit.name}/{sample.repository}:{sample.tag}": sample.image.config.digest
            for habit in habits
            for sample in habit.samples
        }
        assert len(images) > 20
        with mirror:
            for image, digest in images.items():
                assert await asyncio.to_thread(dockerd.pull, image) == digest
                await asyncio.to_thread(dockerd.remove, image)
            for habit in habits:
                await habit.stop()
            for image, digest in images.items():
                assert await asyncio.to_thread(dockerd.pull, image) == digest
