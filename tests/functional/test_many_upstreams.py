"""One process in front of every kind of registry at once: what it serves, and that no secret is seen anywhere."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mirror.credentials import login_file
from mirror.credentials.docker_config import made_of
from tests.support.faults import Fault, Status
from tests.support.habits import HABITS, Ghcr, GitLab, Habit, Harbor, HtpasswdRegistry, Quay
from tests.support.habits.base import DATA_HOST
from tests.support.mirrors import Answer, MirrorProcess
from tests.support.programs import write_program

BY_LOGIN, BY_HELPER, BY_AUTHS = (Harbor, HtpasswdRegistry), (Quay,), (Ghcr, GitLab)


def table(habit: Habit, folder: Path) -> str:
    """Return an upstream's table; where no other place has the credential, with a password file."""
    prefix = f"upstreams.{habit.name}."
    keys = {key.removeprefix(prefix): value for key, value in habit.settings().items()} | {"tag_ttl": "0s"}
    if habit.credential is not None and not isinstance(habit, (*BY_LOGIN, *BY_HELPER, *BY_AUTHS)):
        user, password = habit.credential
        file = folder / f"password of {habit.name}"
        file.write_text(password, encoding="utf-8")
        keys |= {"username": user, "password_file": str(file)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join([f'[upstreams."{habit.name}"]', *lines, ""])


def place_credentials(habits: list[Habit], mirror: MirrorProcess, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Put the others where `mirror login`, a helper and Docker's own file have them."""
    docker = folder / "docker"
    docker.mkdir()
    document: dict[str, dict[str, object]] = {"auths": {}, "credHelpers": {}}
    mirror.cache_folder.mkdir(exist_ok=True)
    for habit in habits:
        if habit.credential is None:
            continue
        user, password = habit.credential
        if isinstance(habit, BY_LOGIN):
            kept = made_of(user, password, place="login")
            login_file.keep(mirror.cache_folder / "credentials.json", habit.name, kept)
        elif isinstance(habit, BY_HELPER):
            answer = folder / "helper answer"
            answer.write_text(json.dumps({"Username": user, "Secret": password}), encoding="utf-8")
            write_program(folder, "docker-credential-test", f"cat > /dev/null; sleep 0.3; cat '{answer}'", patch)
            document["credHelpers"][habit.name] = "test"
        elif isinstance(habit, BY_AUTHS):
            document["auths"][habit.name] = {"username": user, "password": password}
    (docker / "config.json").write_text(json.dumps(document), encoding="utf-8")
    patch.setenv("DOCKER_CONFIG", str(docker))


def command_lines() -> str:
    """Return what the process list shows of everybody."""
    shown = []
    for process in Path("/proc").iterdir():
        try:
            shown.append((process / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:  # no process, or it is gone
            continue
    return "\n".join(shown)


async def pull(mirror: MirrorProcess, habit: Habit) -> list[Answer]:
    """Ask for everything of every image that the upstream has."""
    paths = []
    for sample in habit.samples:
        start = f"/v2/{habit.name}/{sample.repository}"
        paths += [f"{start}/manifests/{sample.tag}", f"{start}/manifests/{sample.image.digest}"]
        paths += [f"{start}/blobs/{blob.digest}" for blob in sample.image.blobs]
    return [await asyncio.to_thread(mirror.request, path) for path in paths]


async def pull_and_watch(mirror: MirrorProcess, habits: list[Habit]) -> tuple[list[list[Answer]], str]:
    """Pull everything of all upstreams at once; return the answers, and what the process list showed meanwhile."""
    shown: list[str] = []
    loop = asyncio.get_running_loop()

    async def watch(watcher: ThreadPoolExecutor) -> None:
        while True:
            shown.append(await loop.run_in_executor(watcher, command_lines))

    with ThreadPoolExecutor(1) as watcher:  # asyncio's own threads are busy with the pulls
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch(watcher))
            pulled = await asyncio.gather(*(pull(mirror, habit) for habit in habits))
            watching.cancel()
    return pulled, "".join(shown)


async def errors(mirror: MirrorProcess, habit: Habit) -> str:
    """Return the bodies of what is refused, and of what fails."""
    paths = [f"/v2/{habit.name}/{name}/manifests/1" for name in ("none", "../../etc", "ada/none")]
    refused = [await asyncio.to_thread(mirror.request, path) for path in paths]
    assert {answer.status for answer in refused} <= {400, 403, 404}
    habit.registry.fail(Fault(action=Status(status=500)))
    failed = await asyncio.to_thread(mirror.request, f"/v2/{habit.name}/team/new/manifests/1")
    return "".join(answer.body.decode() for answer in [*refused, failed])


async def test_every_image_of_every_upstream_pulls_cold_and_with_it_stopped_and_no_secret_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        habits = [await stack.enter_async_context(kind()) for kind in HABITS]
        (tmp_path / "mirror").mkdir()
        extra = "".join(['[log]\nlevel = "debug"\n', *(table(habit, tmp_path) for habit in habits)])
        mirror = MirrorProcess({}, folder=tmp_path / "mirror", extra=extra)
        place_credentials(habits, mirror, tmp_path, monkeypatch)
        with mirror:
            pulled, processes = await pull_and_watch(mirror, habits)
            for habit, answers in zip(habits, pulled, strict=True):
                assert [answer.status for answer in answers] == [200] * len(answers), habit.name
            bodies = [await errors(mirror, habit) for habit in habits]
            for habit in habits:
                await habit.stop()
            for habit in habits:
                answers = await pull(mirror, habit)
                assert [answer.status for answer in answers] == [200] * len(answers), habit.name
            paths = ("/metrics", "/", "/readyz", "/healthz", "/v2/_catalog", "/v2/")
            bodies += [(await asyncio.to_thread(mirror.request, path)).body.decode() for path in paths]
        seen = "".join([mirror.log_path.read_text(encoding="utf-8"), processes, *bodies])
        assert '"level": "debug"' in seen
        assert "docker-credential-test" in processes
        secrets = {secret for habit in habits for secret in habit.secrets}
        assert len(secrets) > 30
        assert [secret for secret in secrets if secret in seen or json.dumps(secret)[1:-1] in seen] == []
        assert [secret for secret in secrets if secret.encode() in stored_by(mirror)] == []
        assert_nothing_crossed(habits)


def stored_by(mirror: MirrorProcess) -> bytes:
    """Return all that is in the cache folder, but for what `mirror login` keeps there on purpose."""
    files = [path for path in mirror.cache_folder.rglob("*") if path.is_file() and path.name != "credentials.json"]
    return b"".join(path.read_bytes() for path in files)


def assert_nothing_crossed(habits: list[Habit]) -> None:
    """Nobody but its own registry and token service saw a credential; no host with data saw any `Authorization`."""
    for habit in habits:
        for other in habits:
            requests = [*other.registry.requests, *(other.tokens.requests if other.tokens is not None else [])]
            if other is not habit:
                shown = [request.headers.get("Authorization", "") for request in requests]
                assert not any(secret in value for secret in habit.secrets for value in shown)
        fetched = [one for one in habit.registry.requests if one.headers["Host"].startswith(DATA_HOST)]
        assert not any("Authorization" in request.headers for request in fetched)
