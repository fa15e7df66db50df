"""Passwords for clients of the mirror: who is let in, what a check costs, and what becomes of the password."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import bcrypt
import pytest
from structlog.testing import capture_logs

from mirror.web import passwords
from tests.functional.conftest import StartMirror
from tests.support.images import docker_image
from tests.support.mirrors import MirrorProcess
from tests.support.passwords import PASSWORD, USER, WRONG, basic, write_htpasswd
from tests.support.process import RegistryProcess
from tests.support.pulling import ACCEPT, MirrorClient
from tests.support.registry import TestRegistry

NAME = "library/app"
IMAGE = docker_image(1)
MANIFEST = f"/v2/{NAME}/manifests/{IMAGE.digest}"
PATHS = (
    "/v2/",
    "/v2",
    f"/v2/{NAME}/manifests/latest",
    MANIFEST,
    f"/v2/{NAME}/blobs/{IMAGE.config.digest}",
    f"/v2/{NAME}/tags/list",
    f"/v2/{NAME}/referrers/{IMAGE.digest}",
    f"/docker.io/v2/{NAME}/manifests/latest",
    "/v2/_catalog",
    "/v1/_ping",
    "/v1/search?q=app",
    "/api/v1/overview",
    "/metrics",
    "/",
)
NOWHERE = ("/nothing", "/v2/%2F", "/healthz/", "/healthz/../metrics", "/%68ealthz", "//readyz", "/v2/healthz")
RIGHT = basic(USER, PASSWORD)
CHALLENGE = 'Basic realm="mirror"'


class Checks:
    """How often bcrypt was asked; it answers all the same."""

    def __init__(self) -> None:
        self.number = 0
        self.wait: Callable[[bytes], object] = lambda _: None

    def check(self, password: bytes, hashed: bytes) -> bool:
        self.number += 1
        self.wait(password)
        return _original(password, hashed)


_original = bcrypt.checkpw


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    counted = Checks()
    monkeypatch.setattr(bcrypt, "checkpw", counted.check)
    return counted


@pytest.fixture
def htpasswd(tmp_path: Path) -> Path:
    return write_htpasswd(tmp_path / "htpasswd", {USER: PASSWORD, "bob": "another"})


Start = Callable[..., Awaitable[MirrorClient]]


@pytest.fixture
def start(registry: TestRegistry, start_mirror: StartMirror, htpasswd: Path) -> Start:
    """Start a mirror with passwords; keywords are keys of ``[access]``."""
    registry.add(NAME, "latest", IMAGE)

    async def started(**access: object) -> MirrorClient:
        flags = {f"access.{key}": value for key, value in {"htpasswd": str(htpasswd), **access}.items()}
        return await start_mirror(registry.base_url, overrides=flags)

    return started


async def ask_from(client: MirrorClient, source: str, path: str, headers: dict[str, str] | None = None) -> int:
    """Ask from another address of this machine; return the status."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(client.mirror.base_url + path, headers={**ACCEPT, **(headers or {})}) as response,
    ):
        await response.read()
        return response.status


def with_password(user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    return {**ACCEPT, **basic(user, password)}


# --- who is let in


async def test_without_a_password_there_is_a_challenge(start: Start, registry: TestRegistry) -> None:
    client = await start()
    for method, path in itertools.product(("GET", "HEAD", "POST"), (*PATHS, *NOWHERE)):
        for headers in (None, with_password(password=WRONG), with_password(user="nobody")):
            answer = await client.ask(path, method=method, headers=headers)
            assert answer.status == 401, path
            assert answer.headers.getall("WWW-Authenticate") == [CHALLENGE]
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
            assert answer.headers["X-Request-Id"]
            if method != "HEAD":
                assert answer.code == "UNAUTHORIZED"
    assert registry.requests == []


async def test_with_the_password_it_is_answered_as_ever(start: Start) -> None:
    client = await start()
    for path in PATHS:
        for headers in (with_password(), with_password("bob", "another")):
            answer = await client.ask(path, headers=headers)
            assert answer.status == 200, path
            assert "WWW-Authenticate" not in answer.headers


async def test_a_network_that_needs_no_password_has_none(start: Start) -> None:
    client = await start(anonymous_networks=["127.0.0.2", "10.0.0.0/8"])
    for path in PATHS:
        assert await ask_from(client, "127.0.0.2", path) == 200, path
        assert await ask_from(client, "127.0.0.3", path) == 401, path
        assert (await client.get(path)).status == 401, path


async def test_what_is_shown_from_there_is_not_looked_at(start: Start, checks: Checks) -> None:
    client = await start(anonymous_networks=["127.0.0.2"])
    for _ in range(3):
        assert await ask_from(client, "127.0.0.2", MANIFEST, basic(USER, WRONG)) == 200
        assert await ask_from(client, "127.0.0.3", MANIFEST, basic(USER, WRONG)) == 401
    assert checks.number == 1


async def test_health_checks_need_none(start: Start) -> None:
    client = await start()
    for path in ("/healthz", "/readyz", "/healthz?x=1"):
        for headers in (None, with_password(password=WRONG)):
            assert (await client.ask(path, headers=headers)).status == 200


async def test_what_is_no_password_is_a_wrong_one(start: Start) -> None:
    client = await start()
    for text in ("", "Basic", "Basic !", "Bearer abc", "Basic YW5u", "Negotiate x", "Basic YW5uOg==", "\xe4"):
        answer = await client.ask(MANIFEST, headers={**ACCEPT, "Authorization": text})
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, CHALLENGE)


# --- what becomes of it


async def test_it_goes_to_no_upstream_and_into_no_log(start: Start, registry: TestRegistry) -> None:
    with capture_logs() as events:
        client = await start()
        await client.ask(f"/v2/{NAME}/manifests/latest", headers=with_password())
        await client.ask(MANIFEST, headers=with_password(password=WRONG))
        await client.ask(MANIFEST, headers=with_password())
    assert registry.requests
    assert all("Authorization" not in request.headers for request in registry.requests)
    told = json.dumps(events, default=str)
    for secret in (PASSWORD, WRONG, RIGHT["Authorization"].split()[1]):
        assert secret not in told
    served = [event for event in events if event["event"] == "request.served"]
    assert [(event["status"], event.get("user")) for event in served] == [(200, USER), (401, None), (200, USER)]


async def test_over_http_from_elsewhere_the_log_warns_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await start(trusted_proxies=["127.0.0.0/8"])
    elsewhere = {"X-Forwarded-For": "192.0.2.7"}
    with capture_logs() as events:
        await client.ask(MANIFEST, headers=with_password())
        await client.ask(MANIFEST, headers={**with_password(), **elsewhere, "X-Forwarded-Proto": "https"})
        assert "access.password_unencrypted" not in {event["event"] for event in events}
        for _ in range(2):
            await client.ask(MANIFEST, headers={**with_password(), **elsewhere})
    (warning,) = [event for event in events if event["event"] == "access.password_unencrypted"]
    assert warning["client"] == "192.0.2.7"


# --- what a check costs


async def test_a_thousand_requests_cost_one_check_a_minute(start: Start, checks: Checks) -> None:
    client = await start()

    async def ask(number: int) -> None:
        for _ in range(number):
            assert (await client.ask(MANIFEST, headers=with_password())).status == 200

    await asyncio.gather(*(ask(20) for _ in range(50)))
    assert checks.number == 1
    client.mirror.clock.advance(20)
    await ask(10)
    assert checks.number == 1
    client.mirror.clock.advance(41)
    await asyncio.gather(*(ask(2) for _ in range(10)))
    assert checks.number == 2


async def test_the_same_wrong_password_costs_one_check(start: Start, checks: Checks) -> None:
    client = await start()
    for _ in range(100):
        assert (await client.ask(MANIFEST, headers=with_password(password=WRONG))).status == 401
    assert checks.number == 1


async def test_who_guesses_is_told_to_wait_and_nobody_else_is(start: Start, checks: Checks) -> None:
    client = await start()
    assert await ask_from(client, "127.0.0.2", MANIFEST, RIGHT) == 200
    seen = [await ask_from(client, "127.0.0.2", MANIFEST, basic(USER, f"{WRONG}{n}")) for n in range(40)]
    assert seen[:30] == [401] * 30
    assert seen[-1] == 429
    before = checks.number
    client.mirror.clock.advance(61)
    assert await ask_from(client, "127.0.0.2", MANIFEST, RIGHT) == 200  # it was right before, and is looked at again
    assert await ask_from(client, "127.0.0.3", MANIFEST, basic("bob", "another")) == 200
    assert checks.number == before + 2


async def test_who_has_to_wait_is_told_for_how_long(start: Start) -> None:
    client = await start()
    answers = [await client.ask(MANIFEST, headers=with_password(password=f"{WRONG}{n}")) for n in range(40)]
    assert (answers[-1].status, answers[-1].code) == (429, "TOOMANYREQUESTS")
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 6
    client.mirror.clock.advance(6)
    assert (await client.ask(MANIFEST, headers=with_password())).status == 200


async def test_guesses_at_once_are_no_more_than_guesses_in_turn(start: Start, checks: Checks) -> None:
    client = await start()
    tried = (client.ask(MANIFEST, headers=with_password(password=f"{WRONG}{n}")) for n in range(100))
    statuses = [answer.status for answer in await asyncio.gather(*tried)]
    assert statuses.count(401) == checks.number < 60
    assert statuses.count(429) == 100 - checks.number


async def test_the_loop_goes_on_and_who_was_right_passes_while_guesses_are_checked(
    start: Start, checks: Checks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_MOST_CHECKS", 8)
    client = await start()
    assert (await client.ask(MANIFEST, headers=with_password())).status == 200
    client.mirror.clock.advance(61)
    guesses_may_end = threading.Event()
    checks.wait = lambda password: password.startswith(WRONG.encode()) and guesses_may_end.wait(30)
    async with asyncio.TaskGroup() as group:
        guesses = [
            group.create_task(client.ask(MANIFEST, headers=with_password(password=f"{WRONG}{number}")))
            for number in range(12)
        ]
        refused: list[int] = []
        for one in guesses:
            one.add_done_callback(lambda done: refused.append(done.result().status))
        while len(refused) < 4 or checks.number < 2:
            assert (await client.get("/healthz")).status == 200
        assert refused == [429] * 4
        assert (await client.ask(MANIFEST, headers=with_password())).status == 200
        guesses_may_end.set()
    assert Counter(one.result().status for one in guesses) == {401: 8, 429: 4}


async def test_what_is_remembered_is_bounded(start: Start, checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_MOST_REMEMBERED", 1)
    client = await start()
    for user, password in ((USER, PASSWORD), ("bob", "another")) * 2:
        assert (await client.ask(MANIFEST, headers=with_password(user, password))).status == 200
    assert checks.number == 4


# --- the file changes


@asynccontextmanager
async def awaited(event: str) -> AsyncIterator[list[dict[str, object]]]:
    """Wait, at the end of the block, until something has been logged."""
    with capture_logs() as events:
        yield events  # type: ignore[misc]  # structlog's are mutable mappings
        async with asyncio.timeout(20):
            while event not in {one["event"] for one in events}:  # noqa: ASYNC110 - the log has no event to wait for
                await asyncio.sleep(0.02)


async def test_a_changed_file_counts_at_once(start: Start, htpasswd: Path, checks: Checks) -> None:
    client = await start()
    bob = with_password("bob", "another")
    for headers in (with_password(), bob):
        assert (await client.ask(MANIFEST, headers=headers)).status == 200
    hashed = {line.partition(":")[0]: line for line in htpasswd.read_text().splitlines()}
    async with awaited("htpasswd.reloaded") as events:
        new = htpasswd.with_name("new")
        new.write_text(f"{hashed['bob']}\n")
        new.rename(htpasswd)
    (event,) = [one for one in events if one["event"] == "htpasswd.reloaded"]
    assert (event["path"], event["users"]) == (str(htpasswd), 1)
    assert (await client.ask(MANIFEST, headers=with_password())).status == 401
    before = checks.number
    assert (await client.ask(MANIFEST, headers=bob)).status == 200
    assert checks.number == before  # whose line is the same need not be checked anew
    async with awaited("htpasswd.reloaded"):
        write_htpasswd(htpasswd, {USER: PASSWORD})
    assert (await client.ask(MANIFEST, headers=with_password())).status == 200
    assert (await client.ask(MANIFEST, headers=bob)).status == 401


@pytest.mark.parametrize("content", [None, ""], ids=["gone", "empty"])
async def test_a_file_that_can_no_longer_be_used_changes_nothing(
    start: Start, htpasswd: Path, content: str | None
) -> None:
    client = await start()
    async with awaited("htpasswd.not_reloaded") as events:
        if content is None:
            htpasswd.unlink()
        else:
            htpasswd.write_text(content)
    (event,) = [one for one in events if one["event"] == "htpasswd.not_reloaded"]
    assert str(event["error"]).startswith(f"access.htpasswd: {htpasswd}:")
    assert (await client.ask(MANIFEST, headers=with_password())).status == 200
    assert (await client.ask(MANIFEST, headers=with_password(password=WRONG))).status == 401


# --- the whole program


def test_two_workers_check_it_each_for_itself_and_a_bad_file_stops_the_start(tmp_path: Path) -> None:
    path = write_htpasswd(tmp_path / "htpasswd", {USER: PASSWORD})
    extra = f'[access]\nhtpasswd = "{path}"\n'
    with RegistryProcess() as registry:
        registry.add(NAME, "latest", IMAGE)
        with MirrorProcess({"docker.io": registry.base_url}, workers=2, extra=extra) as mirror:
            for _ in range(10):
                assert mirror.request(MANIFEST, headers=RIGHT).body == IMAGE.manifest
                assert mirror.request(MANIFEST).status == 401
            mirror.stop()
            path.write_text("ann:{SHA}x\n")
            with pytest.raises(ChildProcessError):
                mirror.start()
            told = mirror.log_path.read_text()
        assert f"mirror: access.htpasswd: {path}:1: 'ann' is hashed by SHA-1, not by bcrypt" in told
        assert "Traceback" not in told
        assert all("Authorization" not in request.headers for request in registry.requests)


def test_check_finds_what_would_stop_the_start(tmp_path: Path) -> None:
    path, config = tmp_path / "htpasswd", tmp_path / "mirror.toml"
    config.write_text(f'[access]\nhtpasswd = "{path}"\n[cache]\noffline = true\n')
    command = [sys.executable, "-m", "mirror", "check", "--config", str(config)]

    def checked() -> tuple[int, str]:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stderr

    path.write_text("# nobody yet\n")
    assert checked() == (2, f"mirror: access.htpasswd: {path}: has no users; add one with htpasswd -B\n")
    write_htpasswd(path, {USER: PASSWORD})
    assert checked() == (0, "")
