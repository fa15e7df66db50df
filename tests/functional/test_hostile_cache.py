"""What somebody may have put into the cache folder: nothing of it is followed, run, waited for or sent."""

from __future__ import annotations

import asyncio
import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.app import prepare_store
from tests.functional.conftest import StartMirror
from tests.support.images import docker_image
from tests.support.mirrors import MirrorProcess, configure, settings
from tests.support.process import RegistryProcess
from tests.support.pulling import MirrorClient, mirror_client
from tests.support.registry import TestRegistry

NAME = "library/app"
IMAGE = docker_image(1)
LAYER = IMAGE.layers[0]
PATH = f"/v2/{NAME}/blobs/{LAYER.digest}"
HEX = LAYER.digest.removeprefix("sha256:")
SECRET = b"root:x:0:0: nobody else's business\n"


@pytest.fixture
def registry(registry: TestRegistry) -> TestRegistry:
    registry.add(NAME, "latest", IMAGE)
    return registry


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """Show afterwards that a file outside of the cache was left as it is."""
    path = tmp_path / "passwd"
    path.write_bytes(SECRET)
    yield path
    assert path.read_bytes() == SECRET


def link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    (path / "inside").mkdir(parents=True)


def device(path: Path, _: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: without end


Put = Callable[[Path, Path], None]
everything = pytest.mark.parametrize("put", [link, pipe, folder, device])


async def assert_serves(client: MirrorClient) -> None:
    """Show that everything is answered, rightly and without a wait."""
    for _ in range(2):
        assert (await client.get(f"/v2/{NAME}/manifests/latest")).body == IMAGE.manifest
        assert (await client.get(PATH)).body == LAYER.content
        assert (await client.head(PATH)).status == 200


async def until_stored(place: Path) -> None:
    """Wait until a blob that its client has is on the disk too."""
    async with asyncio.timeout(20):
        while not place.exists() or sha256(place.read_bytes()).hexdigest() != place.name:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)


@everything
async def test_what_is_no_file_is_not_sent_as_a_blob(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path, secret: Path, put: Put
) -> None:
    place = tmp_path / "cache" / "blobs" / "sha256" / HEX[:2] / HEX
    place.parent.mkdir(parents=True)
    put(place, secret)
    await assert_serves(await start_mirror(registry.base_url))


@everything
async def test_what_takes_a_stored_blobs_place_while_serving_is_not_sent(
    registry: TestRegistry, start_mirror: StartMirror, secret: Path, put: Put
) -> None:
    client = await start_mirror(registry.base_url)
    await assert_serves(client)
    place = client.mirror.folder / "blobs" / "sha256" / HEX[:2] / HEX
    await until_stored(place)
    place.unlink()
    put(place, secret)
    await assert_serves(client)


@everything
async def test_what_takes_a_manifests_place_is_not_read(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path, secret: Path, put: Put
) -> None:
    name = IMAGE.digest.removeprefix("sha256:")
    place = tmp_path / "cache" / "blobs" / "sha256" / name[:2] / name
    place.parent.mkdir(parents=True)
    put(place, secret)
    await assert_serves(await start_mirror(registry.base_url))


@everything
@pytest.mark.parametrize("suffix", ["", ".origin", ".0.part"])
async def test_what_is_no_file_is_not_gone_on_with_as_a_download(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path, secret: Path, put: Put, suffix: str
) -> None:
    place = tmp_path / "cache" / "partial" / f"sha256-{HEX}{suffix}"
    place.parent.mkdir(parents=True)
    put(place, secret)
    await assert_serves(await start_mirror(registry.base_url))


@everything
async def test_what_is_no_file_beside_a_download_is_not_read(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path, secret: Path, put: Put
) -> None:
    """A download that is there, and something else in the place of what is known about it."""
    place = tmp_path / "cache" / "partial" / f"sha256-{HEX}"
    place.parent.mkdir(parents=True)
    place.write_bytes(LAYER.content[:1000])
    put(place.with_name(f"{place.name}.origin"), secret)
    await assert_serves(await start_mirror(registry.base_url))


@pytest.mark.parametrize("name", ["blobs", "partial", "index", "links", "locks", "figures.db"])
def test_a_link_in_place_of_a_folder_or_a_database_stops_the_start(tmp_path: Path, name: str, secret: Path) -> None:
    cache, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    cache.mkdir()
    elsewhere.mkdir()
    (cache / name).symlink_to(elsewhere if "." not in name and name != "locks" else secret)
    with pytest.raises(OSError, match="a link in a cache folder may lead anywhere"):
        prepare_store(configure(cache, {}))
    assert list(elsewhere.iterdir()) == []


def test_the_cache_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    prepare_store(configure(tmp_path / "cache", {}))
    assert (tmp_path / "elsewhere" / "blobs").is_dir()


class Mischief:
    """Leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (self._mark,))


async def test_a_pickle_in_the_index_runs_no_code(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path
) -> None:
    """Each value of the index is made a pickle, by whoever can write to it; what it says is asked for anew."""
    mark = tmp_path / "mark"
    poison = pickle.dumps(Mischief(mark))
    async with mirror_client(tmp_path / "cache", settings({"docker.io": registry.base_url})) as client:
        await assert_serves(client)
    databases = [path for path in (tmp_path / "cache" / "index").rglob("*.db") if has_cache(path)]
    assert databases
    changed = 0
    for path in databases:
        with sqlite3.connect(path) as database:
            changed += database.execute("UPDATE Cache SET mode = 4, value = ?, raw = 0", (poison,)).rowcount
        database.close()
    assert changed
    await assert_serves(await start_mirror(registry.base_url))
    assert not mark.exists()
    pickle.loads(poison)  # noqa: S301 - it would have
    assert mark.exists()


def has_cache(path: Path) -> bool:
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT name FROM sqlite_master WHERE name = 'Cache'").fetchone()
    database.close()
    return found is not None


def test_a_cache_folder_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    """Private images are in it, and what `mirror login` stored."""
    prepare_store(configure(tmp_path / "new" / "cache", {}))
    assert stat.S_IMODE((tmp_path / "new" / "cache").stat().st_mode) == 0o700


def test_a_cache_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o750)
    prepare_store(configure(tmp_path / "cache", {}))
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o750


@pytest.mark.parametrize(("mode", "owner", "reason"), [(0o777, 0, "everybody may write"), (0o700, 12345, "belongs to")])
def test_a_cache_folder_that_others_may_change_is_warned_about(
    tmp_path: Path, mode: int, owner: int, reason: str
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(mode)
    os.chown(cache, owner or os.geteuid(), -1)
    with capture_logs() as events:
        prepare_store(configure(cache, {}))
    (event,) = [event for event in events if event["event"] == "cache.unsafe"]
    assert reason in event["reason"]


async def test_files_of_others_are_served_for_what_they_hold(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path
) -> None:
    """Whoever owns it: a blob whose bytes are wrong is fetched again."""
    place = tmp_path / "cache" / "blobs" / "sha256" / HEX[:2] / HEX
    place.parent.mkdir(parents=True)
    place.write_bytes(bytes(LAYER.size_bytes))
    os.chown(place, 12345, 12345)
    await assert_serves(await start_mirror(registry.base_url))
    await until_stored(place)


def test_a_start_that_is_refused_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "blobs").symlink_to("/etc")
    (tmp_path / "mirror.toml").write_text(f"[cache]\ndir = '{tmp_path}/cache'\n[server]\nlisten = ['127.0.0.1:0']\n")
    command = [sys.executable, "-m", "mirror", "serve", "--config", str(tmp_path / "mirror.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("mirror: ")
    assert "point cache.dir at the other place instead" in line


def test_the_first_start_makes_a_folder_that_is_its_owners_alone() -> None:
    with RegistryProcess() as registry, MirrorProcess({"docker.io": registry.base_url}) as mirror:
        assert stat.S_IMODE(mirror.cache_folder.stat().st_mode) == 0o700
