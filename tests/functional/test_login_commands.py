"""``mirror login``, ``mirror logout`` and ``mirror check``, as people type them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mirror.credentials.credential import AZURE_USER
from tests.support.habits import HABITS, DockerHub, Ghcr, GitLab, Habit, Harbor, HtpasswdRegistry, Mcr, Quay
from tests.support.images import docker_image
from tests.support.mirrors import MirrorProcess

WRONG = "a wrong password"
LOGIN_KINDS = [kind for kind in HABITS if kind.private is not None]
SHOWN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command has said and how it ended."""

    code: int
    out: str
    err: str


class Shell:
    """Runs the command in a folder with a configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "mirror.toml"
        self.stored = folder / "cache" / "credentials.json"

    def configure(self, *habits: Habit, extra: str = "") -> None:
        """Write a configuration of these upstreams, and of no other."""
        lines = ["[cache]", f'dir = "{self.folder / "cache"}"']
        for name in ("docker.io", "ghcr.io", "quay.io", "gcr.io", "registry.k8s.io", "mcr.microsoft.com"):
            lines += self._table(name, next((habit for habit in habits if habit.name == name), None))
        for name in ("public.ecr.aws", "registry.gitlab.com", "nvcr.io"):
            lines += self._table(name, next((habit for habit in habits if habit.name == name), None))
        known = "".join(lines)
        for habit in habits:
            if f'"{habit.name}"' not in known:
                lines += self._table(habit.name, habit)
        if not any(habit.name == "docker.io" for habit in habits):
            lines += ['[upstreams."other.example"]', "default = true", 'endpoints = ["http://127.0.0.1:1"]']
        self.config.write_text("\n".join(lines) + "\n" + extra, encoding="utf-8")

    def _table(self, name: str, habit: Habit | None) -> list[str]:
        if habit is None:
            return [f'[upstreams."{name}"]', "enabled = false"]
        prefix = f"upstreams.{name}."
        given = {key.removeprefix(prefix): value for key, value in habit.settings().items()}
        return [f'[upstreams."{name}"]', *(f"{key} = {json.dumps(value)}" for key, value in given.items())]

    async def run(self, *arguments: str, given: str = "", environment: Mapping[str, str] | None = None) -> Finished:
        """Run ``mirror`` with text on its standard input."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MIRROR_", "DOCKER_"))}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mirror",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
            env={**inherited, "HOME": str(self.folder), "PYTHONPATH": str(Path.cwd()), **(environment or {})},
        )
        out, err = await process.communicate(given.encode())
        return Finished(code=process.returncode or 0, out=out.decode(), err=err.decode())

    async def login(self, habit: Habit, password: str, *more: str) -> Finished:
        """Log in as people do it: ``cat TOKEN.txt | mirror login …``."""
        assert habit.credential is not None
        return await self.run(
            "login", habit.name, "-u", habit.credential[0], "--password-stdin", *more, given=password + "\n"
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
async def habit(kind: type[Habit]) -> AsyncIterator[Habit]:
    async with kind() as upstream:
        yield upstream


def password_of(habit: Habit) -> str:
    assert habit.credential is not None
    return habit.credential[1]


# login


@pytest.mark.parametrize("kind", LOGIN_KINDS)
async def test_a_wrong_password_is_refused_and_a_right_one_stored(habit: Habit, shell: Shell) -> None:
    shell.configure(habit)
    wrong = await shell.login(habit, WRONG)
    assert (wrong.code, wrong.out) == (1, "")
    assert "does not accept this password" in wrong.err
    assert wrong.err.count("\n") == 1
    assert WRONG not in wrong.err
    assert not shell.stored.exists()
    right = await shell.login(habit, password_of(habit))
    assert (right.code, right.err) == (0, "")
    assert stat.S_IMODE(shell.stored.stat().st_mode) == 0o600
    assert list(json.loads(shell.stored.read_text(encoding="utf-8"))["auths"]) == [habit.name]
    assert [path.name for path in shell.stored.parent.iterdir()] == ["credentials.json"]
    assert not any(secret in right.out for secret in habit.secrets)


async def test_what_is_stored_is_used_at_once_by_a_running_server(shell: Shell) -> None:
    async with Ghcr() as ghcr:
        with MirrorProcess({"ghcr.io": ghcr.registry.base_url}, folder=shell.folder, workers=2) as mirror:
            path = f"/v2/ghcr.io/{ghcr.private.repository}/manifests/{ghcr.private.tag}"
            assert (await asyncio.to_thread(mirror.request, path)).status in {403, 404}
            config = ["--config", str(shell.folder / "mirror.toml")]
            environment = {"MIRROR_CACHE__DIR": str(mirror.cache_folder)}
            login = ("login", "ghcr.io", "-u", "octocat", "--password-stdin", *config)
            stored = await shell.run(*login, given=password_of(ghcr), environment=environment)
            assert (stored.code, stored.err) == (0, "")
            async with asyncio.timeout(SHOWN_SECONDS):
                while (await asyncio.to_thread(mirror.request, path)).status != 200:
                    pass
            removed = await shell.run("logout", "ghcr.io", *config, environment=environment)
            assert (removed.code, removed.err) == (0, "")
            tags = f"/v2/ghcr.io/{ghcr.private.repository}/tags/list"
            async with asyncio.timeout(SHOWN_SECONDS):
                while (await asyncio.to_thread(mirror.request, tags)).status == 200:
                    pass


async def test_two_at_once_lose_nothing(shell: Shell) -> None:
    async with Ghcr() as ghcr, Quay() as quay, Harbor() as harbor, HtpasswdRegistry() as plain:
        habits = (ghcr, quay, harbor, plain)
        shell.configure(*habits)
        done = await asyncio.gather(*(shell.login(habit, password_of(habit)) for habit in habits))
        assert [one.code for one in done] == [0] * 4
        stored = json.loads(shell.stored.read_text(encoding="utf-8"))["auths"]
        assert set(stored) == {habit.name for habit in habits}


async def test_logout_removes_one_and_leaves_the_others(shell: Shell) -> None:
    async with Ghcr() as ghcr, Quay() as quay:
        shell.configure(ghcr, quay)
        for habit in (ghcr, quay):
            await shell.login(habit, password_of(habit))
        gone = await shell.run("logout", "ghcr.io")
        assert (gone.code, "was removed" in gone.out) == (0, True)
        assert list(json.loads(shell.stored.read_text(encoding="utf-8"))["auths"]) == ["quay.io"]
        again = await shell.run("logout", "ghcr.io")
        assert (again.code, again.out) == (0, "No credential for ghcr.io was stored\n")


async def test_a_registry_that_is_gone_cannot_check_and_no_check_stores(shell: Shell) -> None:
    async with Ghcr() as ghcr:
        shell.configure(ghcr)
        await ghcr.stop()
        failed = await shell.login(ghcr, password_of(ghcr))
        assert (failed.code, failed.out) == (1, "")
        assert "--no-check" in failed.err
        assert not shell.stored.exists()
        assert (await shell.login(ghcr, password_of(ghcr), "--no-check")).code == 0
        assert shell.stored.exists()
        await ghcr.start()


async def test_a_registry_that_asks_nobody_stores_and_says_so(shell: Shell) -> None:
    async with Mcr() as mcr:
        shell.configure(mcr)
        done = await shell.run("login", mcr.name, "-u", "me", "--password-stdin", given="x")
        assert (done.code, "could not be checked" in done.out) == (0, True)


async def test_a_token_service_elsewhere_is_sent_nothing(shell: Shell) -> None:
    async with GitLab() as gitlab:
        shell.configure(gitlab)
        text = shell.config.read_text(encoding="utf-8")
        shell.config.write_text(text.replace("token_hosts", "# token_hosts"), encoding="utf-8")
        done = await shell.login(gitlab, password_of(gitlab))
        assert (done.code, "token_hosts" in done.err) == (1, True)
        assert gitlab.tokens.requests == []
        assert not shell.stored.exists()


@pytest.mark.parametrize("name", ["index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"])
async def test_docker_hub_may_be_called_as_docker_calls_it(shell: Shell, name: str) -> None:
    async with DockerHub() as hub:
        shell.configure(hub)
        done = await shell.run("login", name, "-u", "ada", "--password-stdin", given=password_of(hub))
        assert (done.code, done.err) == (0, "")
        assert list(json.loads(shell.stored.read_text(encoding="utf-8"))["auths"]) == ["docker.io"]


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (("login", "ghcr.i", "-u", "me", "--password-stdin"), "x", "'ghcr.i' is not an upstream of this configuration"),
        (("login", "ghcr.io", "--password-stdin"), "x", "say who logs in: -u USER"),
        (("login", "ghcr.io", "-u", "me"), "x", "standard input is not a terminal"),
        (("login", "ghcr.io", "-u", "me", "--password-stdin"), "", "there is no password on standard input"),
        (("login", "ghcr.io", "-u", "me", "--password-stdin"), "a\nb", "must be one line of text"),
        (("login", "ghcr.io", "-u", "a:b", "--password-stdin"), "x", "must be a name without a colon"),
        (("login", "ghcr.io", "-u", "me", "--password", "hunter2"), "x", "unrecognized arguments"),
        (("logout", "ghcr.i"), "", "'ghcr.i' is not an upstream of this configuration"),
        (("login",), "", "REGISTRY"),
    ],
)
async def test_misuse_is_said_and_stores_nothing(
    shell: Shell, arguments: tuple[str, ...], given: str, said: str
) -> None:
    done = await shell.run(*arguments, given=given)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert not shell.stored.exists()


async def test_a_file_that_is_no_credentials_file_is_left_as_it_is(shell: Shell) -> None:
    async with Ghcr() as ghcr:
        shell.configure(ghcr)
        shell.stored.parent.mkdir()
        shell.stored.write_text("my notes", encoding="utf-8")
        done = await shell.login(ghcr, password_of(ghcr))
        assert (done.code, "is not JSON; move it away" in done.err) == (1, True)
        assert shell.stored.read_text(encoding="utf-8") == "my notes"


async def test_what_root_stores_belongs_to_whom_the_cache_belongs_to(shell: Shell) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    async with Ghcr() as ghcr:
        shell.configure(ghcr)
        shell.stored.parent.mkdir()
        os.chown(shell.stored.parent, 12345, 12346)
        assert (await shell.login(ghcr, password_of(ghcr))).code == 0
        found = shell.stored.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 12346, 0o600)


# check


async def findings(shell: Shell, **expected: object) -> dict[str, Any]:
    done = await shell.run("check", "--json")
    assert (done.code, done.err) == (expected.get("code", 0), "")
    return {finding["upstream"]: finding for finding in json.loads(done.out)}


async def test_check_tells_reachability_auth_credential_and_limit_of_each(shell: Shell) -> None:
    async with AsyncExitStack() as stack:
        habits = [await stack.enter_async_context(kind()) for kind in HABITS]
        hub = next(habit for habit in habits if isinstance(habit, DockerHub))
        hub.registry.add("ratelimitpreview/test", "latest", docker_image(990, layers=1, layer_bytes=100))
        shell.configure(*habits)
        for habit in habits:
            if habit.credential is not None:
                assert (await shell.login(habit, password_of(habit))).code == 0
        found = await findings(shell)
        assert set(found) == {habit.name for habit in habits}
        assert all(finding["is_reachable"] and not finding["faults"] for finding in found.values())
        assert found["docker.io"] == {
            "upstream": "docker.io",
            "is_reachable": True,
            "auth": "Bearer, tokens from 127.0.0.1",
            "credential": "ada (mirror login): accepted",
            "limit": "100 of 100 left",
            "faults": [],
        }
        assert found["registry.gitlab.com"]["auth"] == "Bearer, tokens from 127.0.0.3"
        assert found["123456789012.dkr.ecr.eu-west-1.amazonaws.com"]["auth"] == "Basic"
        assert (found["mcr.microsoft.com"]["auth"], found["mcr.microsoft.com"]["credential"]) == ("none", "none")
        assert hub.registry.count(kind="manifest", method="GET") == 0  # it costs no pull
        table = await shell.run("check")
        assert table.code == 0
        assert table.out.splitlines()[0].split() == ["UPSTREAM", "REACHABLE", "AUTH", "CREDENTIAL", "LIMIT"]
        assert not any(secret in table.out for habit in habits for secret in habit.secrets)


@pytest.mark.parametrize("kind", [DockerHub, Ghcr, HtpasswdRegistry])
async def test_check_exits_with_1_when_a_credential_is_refused(habit: Habit, shell: Shell) -> None:
    shell.configure(habit)
    assert (await shell.login(habit, WRONG, "--no-check")).code == 0
    done = await shell.run("check")
    assert done.code == 1
    assert "(mirror login) is refused; log in again, or remove it" in done.out
    assert WRONG not in done.out + done.err


async def test_check_exits_with_1_when_an_upstream_is_gone(shell: Shell) -> None:
    async with Ghcr() as ghcr, DockerHub() as hub:
        shell.configure(ghcr, hub)
        await ghcr.stop()
        found = await findings(shell, code=1)
        assert (found["ghcr.io"]["is_reachable"], found["docker.io"]["is_reachable"]) == (False, True)
        (fault,) = found["ghcr.io"]["faults"]
        assert "cannot be reached" in fault
        await ghcr.start()


async def test_check_exits_with_1_when_a_credential_is_not_shown(shell: Shell) -> None:
    async with GitLab() as gitlab:
        shell.configure(gitlab)
        await shell.login(gitlab, password_of(gitlab))
        text = shell.config.read_text(encoding="utf-8")
        shell.config.write_text(text.replace("token_hosts", "# token_hosts"), encoding="utf-8")
        done = await shell.run("check", "--json")
        (fault,) = next(one for one in json.loads(done.out) if one["upstream"] == gitlab.name)["faults"]
        assert "list its host in token_hosts" in fault
        assert done.code == 1


async def test_an_identity_token_is_not_shown_where_a_password_is_asked_for(shell: Shell, tmp_path: Path) -> None:
    """Docker and containerd do not show it either: it is good for more than this registry."""
    async with HtpasswdRegistry() as registry:
        shell.configure(registry)
        docker = {"auths": {registry.name: {"identitytoken": "an identity token"}}}
        (tmp_path / "config.json").write_text(json.dumps(docker), encoding="utf-8")
        done = await shell.run("check", "--json", environment={"DOCKER_CONFIG": str(tmp_path)})
        (found,) = (one for one in json.loads(done.out) if one["upstream"] == registry.name)
        (fault,) = found["faults"]
        assert "is not shown: htpasswd.example asks for a password" in fault
        assert done.code == 1

        done = await shell.run("login", registry.name, "-u", AZURE_USER, "--password-stdin", given="a token\n")
        assert done.code == 1
        assert "htpasswd.example asks for a password, and a token is none; nothing was sent or stored" in done.err
        assert not shell.stored.exists()
        assert [one.headers.get("Authorization") for one in registry.registry.requests] == [None] * 2


async def test_check_exits_with_1_when_a_helper_cannot_be_run(shell: Shell) -> None:
    async with DockerHub() as hub:
        shell.configure(hub)
        (shell.folder / ".docker").mkdir()
        (shell.folder / ".docker" / "config.json").write_text('{"credsStore": "nowhere"}', encoding="utf-8")
        done = await shell.run("check")
        assert (done.code, "docker-credential-nowhere cannot be run" in done.out) == (1, True)


async def test_check_refuses_a_configuration_that_is_wrong(shell: Shell) -> None:
    shell.config.write_text("[cache]\ntag_tll = 1\n", encoding="utf-8")
    done = await shell.run("check")
    assert (done.code, done.out) == (2, "")
    assert "did you mean cache.tag_ttl?" in done.err
