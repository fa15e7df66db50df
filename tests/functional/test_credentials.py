"""Where credentials are found, that they are taken up when they change, and that none is asked for too often."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.credentials import login_file, sources
from mirror.credentials.docker_config import made_of
from mirror.credentials.helpers import HelperFailed, ask_helper
from tests.functional.conftest import StartMirror
from tests.support.access import read_basic
from tests.support.aws import AwsApi
from tests.support.habits import Acr, ArtifactRegistry, Ghcr, GitLab, HtpasswdRegistry, PrivateEcr
from tests.support.habits.acr import NOBODY
from tests.support.habits.base import OTHER_HOST, Habit, Sample
from tests.support.mirrors import MirrorProcess
from tests.support.programs import write_program
from tests.support.pulling import MirrorClient

KNOWN_SECONDS = 5.0  # for a running mirror to see that a file has changed
Start = Callable[[], Awaitable[MirrorClient]]


@pytest.fixture
async def ghcr() -> AsyncIterator[Ghcr]:
    async with Ghcr() as upstream:
        yield upstream


@pytest.fixture
def docker_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docker"
    folder.mkdir()
    return folder


def write_docker_config(folder: Path, document: object) -> None:
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")


def pair_of(habit: Habit) -> tuple[str, str]:
    assert habit.credential is not None
    return habit.credential


def auth_of(habit: Habit, *, password: str | None = None) -> dict[str, str]:
    user, right = pair_of(habit)
    return {"auth": base64.b64encode(f"{user}:{password or right}".encode()).decode()}


@pytest.fixture
def start(ghcr: Ghcr, start_mirror: StartMirror, docker_folder: Path) -> Start:
    """Start a mirror of ghcr.io that looks into a Docker configuration."""

    async def started() -> MirrorClient:
        return await start_mirror(overrides=ghcr.settings(), environ={"DOCKER_CONFIG": str(docker_folder)})

    return started


async def status_of(client: MirrorClient, habit: Habit, sample: Sample) -> int:
    return (await client.get(f"/v2/{habit.name}/{sample.repository}/manifests/{sample.tag}")).status


async def has_status(client: MirrorClient, path: str, statuses: set[int]) -> bool:
    return (await client.get(path)).status in statuses


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(KNOWN_SECONDS):
        while not await condition():
            pass  # asking takes its time


# What `mirror login` stores


async def test_what_login_stores_is_used_by_a_running_mirror_without_waiting_for_what_is_remembered(
    ghcr: Ghcr, start: Start, tmp_path: Path
) -> None:
    client = await start()
    path = f"/v2/ghcr.io/{ghcr.private.repository}/tags/list"
    assert (await client.get(path)).status in {403, 404}
    assert await status_of(client, ghcr, ghcr.private) in {403, 404}
    login_file.keep(tmp_path / "cache" / "credentials.json", "ghcr.io", made_of(*pair_of(ghcr), place="login"))
    await until(lambda: has_status(client, path, {200}))
    assert await status_of(client, ghcr, ghcr.private) == 200  # although it was refused a moment ago


async def test_what_logout_removes_is_used_no_more(ghcr: Ghcr, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "credentials.json"
    login_file.keep(file, "ghcr.io", made_of(*pair_of(ghcr), place="login"))
    client = await start()
    assert await status_of(client, ghcr, ghcr.private) == 200
    assert login_file.forget(file, "ghcr.io")
    ghcr.tokens.record.clear()
    path = f"/v2/{ghcr.name}/{ghcr.private.repository}/tags/list"
    await until(lambda: has_status(client, path, {403, 404}))
    assert read_basic(ghcr.tokens.requests[-1].headers) is None


async def test_a_file_that_is_half_written_changes_nothing(ghcr: Ghcr, start: Start, docker_folder: Path) -> None:
    write_docker_config(docker_folder, {"auths": {"ghcr.io": auth_of(ghcr)}})
    client = await start()
    with capture_logs() as logs:
        (docker_folder / "config.json").write_text('{"auths": {"ghcr', encoding="utf-8")

        async def is_said() -> bool:
            await client.get("/healthz")
            return "credentials.unreadable" in {entry["event"] for entry in logs}

        await until(is_said)
    assert await status_of(client, ghcr, ghcr.private) == 200


# Docker's configuration


async def test_docker_s_configuration_is_read(ghcr: Ghcr, start: Start, docker_folder: Path) -> None:
    write_docker_config(docker_folder, {"auths": {"https://ghcr.io": auth_of(ghcr)}})
    assert await status_of(await start(), ghcr, ghcr.private) == 200


async def test_the_order_is_own_keys_then_login_then_helpers_then_auths(
    ghcr: Ghcr,
    start_mirror: StartMirror,
    docker_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each place has another wrong password, until the first has none: the one that is shown tells where it looked."""
    user, _ = pair_of(ghcr)
    answer = json.dumps({"ServerURL": "ghcr.io", "Username": user, "Secret": "of-helper"})
    write_program(tmp_path, "docker-credential-test", f"cat > /dev/null; echo '{answer}'", monkeypatch)
    auths = {"auths": {"ghcr.io": auth_of(ghcr, password="of-auths")}}
    file = tmp_path / "cache" / "credentials.json"
    login_file.keep(file, "ghcr.io", made_of(user, "of-login", place="login"))
    own = {"upstreams.ghcr.io.username": user, "upstreams.ghcr.io.password_file": str(tmp_path / "own")}
    (tmp_path / "own").write_text("of-own", encoding="utf-8")

    async def shown(*, with_own: bool = False) -> str:
        ghcr.tokens.record.clear()
        flags = {**ghcr.settings(), **(own if with_own else {})}
        client = await start_mirror(overrides=flags, environ={"DOCKER_CONFIG": str(docker_folder)})
        await client.get(f"/v2/ghcr.io/{ghcr.public.repository}/tags/list")
        pairs = [read_basic(request.headers) for request in ghcr.tokens.requests]
        return next(pair[1] for pair in pairs if pair is not None)

    write_docker_config(docker_folder, {**auths, "credHelpers": {"ghcr.io": "test"}})
    assert await shown(with_own=True) == "of-own"
    assert await shown() == "of-login"
    login_file.forget(file, "ghcr.io")
    assert await shown() == "of-helper"
    write_docker_config(docker_folder, auths)
    assert await shown() == "of-auths"


async def test_an_identity_token_is_exchanged_and_never_shown_as_a_password(
    ghcr: Ghcr, start: Start, docker_folder: Path
) -> None:
    user, _ = pair_of(ghcr)
    identity_token = ghcr.tokens.make_refresh_token(user)
    write_docker_config(docker_folder, {"auths": {"ghcr.io": {"identitytoken": identity_token}}})
    client = await start()
    assert await status_of(client, ghcr, ghcr.private) == 200
    (asked,) = ghcr.tokens.requests
    assert (asked.method, asked.headers.get("Authorization")) == ("POST", None)
    assert identity_token not in asked.path + repr(dict(asked.query))


# Helpers


def helper_counting(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Callable[[], int]:
    """Put a helper on the PATH; return how often it was run."""
    runs = folder / "runs"
    runs.write_text("", encoding="utf-8")
    write_program(folder, "docker-credential-test", f"echo run >> {runs}; {script}", monkeypatch)
    return lambda: len(runs.read_text(encoding="utf-8").splitlines())


def answering(folder: Path, user: str, secret: str) -> str:
    """Return a script that says what is in a file."""
    file = folder / "answer"
    file.write_text(json.dumps({"ServerURL": "x", "Username": user, "Secret": secret}), encoding="utf-8")
    return f"cat > /dev/null; cat {file}"


async def test_a_helper_is_run_once_and_again_when_its_answer_is_refused(
    ghcr: Ghcr,
    start: Start,
    docker_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = helper_counting(tmp_path, monkeypatch, answering(tmp_path, *pair_of(ghcr)))
    write_docker_config(docker_folder, {"credHelpers": {"ghcr.io": "test"}})
    client = await start()
    await asyncio.gather(*(status_of(client, ghcr, sample) for sample in ghcr.samples * 5))
    assert await status_of(client, ghcr, ghcr.private) == 200
    assert runs() == 1
    ghcr.end_credential()  # the helper knows the new one
    answering(tmp_path, *pair_of(ghcr))
    client.mirror.clock.advance(120)
    assert (await client.get(f"/v2/{ghcr.name}/{ghcr.private.repository}/tags/list")).status == 200
    assert runs() == 2


async def test_a_helper_that_keeps_giving_what_is_refused_is_not_run_in_a_loop(
    ghcr: Ghcr,
    start: Start,
    docker_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = helper_counting(tmp_path, monkeypatch, answering(tmp_path, pair_of(ghcr)[0], "wrong"))
    write_docker_config(docker_folder, {"credsStore": "test"})
    client = await start()
    for number in range(10):
        assert await status_of(client, ghcr, ghcr.public) == 200
        assert (await client.get(f"/v2/ghcr.io/octo/app{number}/manifests/1")).status in {403, 404}
    assert runs() == 2  # once, and once more because it was refused


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "docker-credential-test failed with exit code 3"),
        ("echo '{}'", "docker-credential-test answered something else than a credential"),
        ("echo secret-in-no-json", "docker-credential-test answered something else than a credential"),
        ("yes secret", "docker-credential-test answered something else than a credential"),
        ("sleep 60", "docker-credential-test gave no answer within 0.5 s"),
        ("sleep 60 & sleep 60", "docker-credential-test gave no answer within 0.5 s"),
    ],
)
async def test_a_helper_that_fails_is_said_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    pid = tmp_path / "pid"
    write_program(tmp_path, "docker-credential-test", f"echo $$ > {pid}; {script}", monkeypatch)
    with pytest.raises(HelperFailed, match=r"^docker-credential-test ") as caught:
        await ask_helper("test", "ghcr.io", time_limit_seconds=0.5)
    assert str(caught.value) == said
    assert "secret" not in str(caught.value)
    assert not Path(f"/proc/{pid.read_text(encoding='utf-8').strip()}").exists()


async def test_a_helper_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HelperFailed, match=r"docker-credential-none cannot be run: No such file"):
        await ask_helper("none", "ghcr.io", time_limit_seconds=5)


async def test_a_helper_is_told_the_registry_and_may_know_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = tmp_path / "heard"
    script = f"cat > {heard}; echo 'credentials not found in native keychain'; exit 1"
    write_program(tmp_path, "docker-credential-test", script, monkeypatch)
    assert await ask_helper("test", "https://index.docker.io/v1/", time_limit_seconds=5) is None
    assert heard.read_text(encoding="utf-8") == "https://index.docker.io/v1/"


async def test_a_helper_may_give_an_identity_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "docker-credential-test", answering(tmp_path, "<token>", "t0k"), monkeypatch)
    credential = await ask_helper("test", "ghcr.io", time_limit_seconds=5)
    assert credential is not None
    assert (credential.secret, credential.is_identity_token) == ("t0k", True)


async def test_a_helper_that_hangs_does_not_keep_public_images_waiting_for_long(
    ghcr: Ghcr,
    start: Start,
    docker_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "TIME_LIMIT_SECONDS", 0.3)
    runs = helper_counting(tmp_path, monkeypatch, "sleep 60")
    write_docker_config(docker_folder, {"credsStore": "test"})
    client = await start()
    with capture_logs() as logs:
        for _ in range(5):
            assert await status_of(client, ghcr, ghcr.public) == 200
    assert runs() == 1
    assert "credentials.helper_failed" in {entry["event"] for entry in logs}


# Clouds


async def test_google_s_key_of_many_lines_is_a_password(start_mirror: StartMirror, tmp_path: Path) -> None:
    async with ArtifactRegistry() as google:
        user, key = pair_of(google)
        assert (user, "\n" in key) == ("_json_key", True)
        (tmp_path / "key").write_text(key, encoding="utf-8")
        keys = {"username": user, "password_file": str(tmp_path / "key")}
        overrides = {f"upstreams.{google.name}.{name}": value for name, value in keys.items()}
        client = await start_mirror(overrides={**google.settings(), **overrides})
        assert await status_of(client, google, google.private) == 200


async def test_azure_s_token_is_exchanged(start_mirror: StartMirror, tmp_path: Path) -> None:
    async with Acr() as azure:
        for number, password in enumerate((azure.credential[1], azure.tokens.entra_token)):
            (tmp_path / "token").write_text(password, encoding="utf-8")
            keys = {"username": NOBODY, "password_file": str(tmp_path / "token")}
            overrides = {f"upstreams.{azure.name}.{name}": value for name, value in keys.items()}
            client = await start_mirror(overrides={**azure.settings(), **overrides})
            azure.tokens.revoke_all()
            path = f"/v2/{azure.name}/{azure.private.repository}/tags/list"
            assert (await client.get(path)).status == 200, number


async def test_amazon_s_password_is_fetched_and_renewed_before_it_ends(
    start_mirror: StartMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PrivateEcr() as ecr, AwsApi(ecr.make_password) as api:
        for name, value in api.environment.items():
            monkeypatch.setenv(name, value)
        client = await start_mirror(overrides=ecr.settings())
        path = f"/v2/{ecr.name}/{ecr.private.repository}/tags/list"
        assert (await client.get(path)).status == 200
        assert (await client.get(path)).status == 200
        assert api.calls == 1
        for _ in range(3):
            ecr.clock.advance(11 * 3600)
            client.mirror.clock.advance(11 * 3600)
            assert (await client.get(path)).status == 200
        assert api.calls == 4
        assert ecr.registry.count(status=403) == 0  # it never showed one that had ended


async def test_amazon_s_password_that_is_refused_is_fetched_anew(
    start_mirror: StartMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PrivateEcr() as ecr, AwsApi(ecr.make_password) as api:
        for name, value in api.environment.items():
            monkeypatch.setenv(name, value)
        client = await start_mirror(overrides=ecr.settings())
        path = f"/v2/{ecr.name}/{ecr.private.repository}/tags/list"
        assert (await client.get(path)).status == 200
        ecr.clock.advance(13 * 3600)  # its clock, not ours
        client.mirror.clock.advance(120)
        assert (await client.get(path)).status == 200
        assert api.calls == 2


async def test_without_an_identity_at_amazon_it_is_said_and_nothing_hangs(
    start_mirror: StartMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PrivateEcr() as ecr, AwsApi(ecr.make_password) as api:
        api.refuses = True
        for name, value in api.environment.items():
            monkeypatch.setenv(name, value)
        client = await start_mirror(overrides=ecr.settings())
        with capture_logs() as logs:
            assert await status_of(client, ecr, ecr.private) == 404
            assert await status_of(client, ecr, ecr.private) == 404
        said = [entry for entry in logs if entry["event"] == "credentials.helper_failed"]
        assert len(said) == 1
        assert "UnrecognizedClientException" in said[0]["error"]


# Not too often


async def test_a_wrong_password_is_tried_ever_more_rarely(start_mirror: StartMirror, tmp_path: Path) -> None:
    async with HtpasswdRegistry() as plain:
        user, _ = pair_of(plain)
        (tmp_path / "secret").write_text("wrong", encoding="utf-8")
        keys = {"username": user, "password_file": str(tmp_path / "secret")}
        overrides = {f"upstreams.{plain.name}.{name}": value for name, value in keys.items()}
        client = await start_mirror(overrides={**plain.settings(), **overrides})
        tried = []
        for minute in range(120):
            before = sum(read_basic(request.headers) is not None for request in plain.registry.requests)
            await client.get(f"/v2/{plain.name}/team/app{minute}/manifests/1")
            after = sum(read_basic(request.headers) is not None for request in plain.registry.requests)
            tried += [minute] * (after - before)
            client.mirror.clock.advance(60)
        assert tried == [0, 5, 15, 35, 75]


async def test_many_workers_show_a_wrong_password_no_more_often_than_one(tmp_path: Path) -> None:
    """GitLab bans an address after a handful of wrong passwords, for everybody behind it."""
    async with GitLab() as gitlab:
        user, _ = pair_of(gitlab)
        (tmp_path / "secret").write_text("wrong", encoding="utf-8")
        keys = {
            "endpoints": [gitlab.registry.base_url],
            "token_hosts": [OTHER_HOST],
            "username": user,
            "password_file": str(tmp_path / "secret"),
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        extra = "\n".join([f'[upstreams."{gitlab.name}"]', *lines, ""])
        path = f"/v2/{gitlab.name}/{gitlab.public.repository}"
        with MirrorProcess({}, folder=tmp_path, workers=6, extra=extra) as mirror:
            paths = [f"{path}/tags/list", *(f"{path}{number}/manifests/1" for number in range(60))]
            asked = [asyncio.to_thread(mirror.request, one) for one in paths]
            answers = await asyncio.gather(*asked)
        assert answers[0].status == 200
        assert gitlab.tokens.bad_attempts == 2  # for the repository, and for nothing
