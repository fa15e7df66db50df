"""One token request for each repository and lifetime, and one more when all are revoked."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

from tests.functional.conftest import StartMirror
from tests.support.habits import DockerHub
from tests.support.images import docker_image

REPOSITORIES = {f"team/app{number}": docker_image(900 + number, layers=1, layer_bytes=500) for number in range(50)}
LIFETIME_SECONDS = 300
USABLE_SECONDS = 0.85 * LIFETIME_SECONDS
ROUNDS = 5


async def test_200_pulls_of_50_repositories_over_five_lifetimes(start_mirror: StartMirror, tmp_path: Path) -> None:
    """Each lifetime sees 40 pulls, some at once, of repositories drawn by chance; each begins with a question."""
    async with DockerHub() as hub:
        for repository, image in REPOSITORIES.items():
            hub.registry.add(repository, "1", image)
            hub.access.private[repository] = {"ada"}
        assert hub.credential is not None
        (tmp_path / "secret").write_text(hub.credential[1], encoding="utf-8")
        keys = {"username": hub.credential[0], "password_file": str(tmp_path / "secret"), "tag_ttl": "0s"}
        flags = {**hub.settings(), **{f"upstreams.docker.io.{key}": value for key, value in keys.items()}}
        client = await start_mirror(overrides=flags)
        generator = random.Random(7)

        async def pull(repository: str) -> None:
            answers = await client.pull(repository, "1", REPOSITORIES[repository])
            assert {answer.status for answer in answers.values()} == {200}

        pulled = 0
        for _ in range(ROUNDS):
            chosen = generator.choices(list(REPOSITORIES), k=200 // ROUNDS)
            hub.tokens.record.clear()
            for start in range(0, len(chosen), 10):
                await asyncio.gather(*(pull(repository) for repository in chosen[start : start + 10]))
            pulled += len(chosen)
            scopes = Counter(scope for request in hub.tokens.requests for scope in request.facts["scopes"])
            assert scopes == {f"repository:{repository}:pull": 1 for repository in set(chosen)}
            for clock in (client.mirror.clock, hub.tokens.clock):
                clock.advance(USABLE_SECONDS + 1)
        assert pulled == 200

        everything = list(REPOSITORIES)
        await asyncio.gather(*(pull(repository) for repository in everything))
        hub.tokens.revoke_all()
        hub.tokens.record.clear()
        for start in range(0, len(everything), 10):
            await asyncio.gather(*(pull(repository) for repository in everything[start : start + 10]))
        scopes = Counter(scope for request in hub.tokens.requests for scope in request.facts["scopes"])
        assert scopes == {f"repository:{repository}:pull": 1 for repository in everything}
