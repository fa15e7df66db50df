"""``mirror export`` and ``mirror import``: what is carried from one cache arrives in another, bit by bit."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.cli.main import main
from mirror.telemetry import logs
from tests.functional.conftest import StartMirror
from tests.support.archives import REF_NAME, blob_name, layout, pack, unpack
from tests.support.commands import run_command
from tests.support.images import Blob, docker_image, oci_index
from tests.support.pulling import MirrorClient, mirror_client
from tests.support.registry import TestRegistry

INDEX, IMAGE, NEWER = (
    oci_index(930, layer_bytes=3000),
    docker_image(940, layer_bytes=3000),
    docker_image(941, layer_bytes=30),
)
AMD64, ARM64 = INDEX.image("amd64"), INDEX.image("arm64")
APP, ALPINE = "ghcr.io/owner/app:1", "docker.io/library/alpine:3.20"
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command on a cache folder, in this process, with its logging left as it is."""
    monkeypatch.setattr(logs, "silence", lambda: None)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str | Path, cache: Path = tmp_path / "cache", **settings: str) -> int:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in settings.items():
                environment.setenv(f"MIRROR_CACHE__{name.upper()}", value)
            return main([*map(str, arguments), "--cache-dir", str(cache)])

    return command


@pytest.fixture
async def client(registry: TestRegistry, start_mirror: StartMirror) -> MirrorClient:
    """A mirror that has pulled an image, and of an index the images of both platforms."""
    registry.add("owner/app", "1", INDEX)
    registry.add("library/alpine", "3.20", IMAGE)
    client = await start_mirror(upstreams={"docker.io": registry.base_url, "ghcr.io": registry.base_url})
    await pull(client, "library/alpine", "3.20", *IMAGE.blobs)
    assert (await client.get("/v2/ghcr.io/owner/app/manifests/1")).status == 200
    for image in INDEX.images:
        await pull(client, "ghcr.io/owner/app", image.digest, *image.blobs)
    await settle(client)
    return client


async def pull(client: MirrorClient, repository: str, reference: str, *blobs: Blob) -> bytes:
    manifest = await client.get(f"/v2/{repository}/manifests/{reference}")
    assert manifest.status == 200
    for blob in blobs:
        assert (await client.get(f"/v2/{repository}/blobs/{blob.digest}")).body == blob.content
    return manifest.body


async def settle(client: MirrorClient) -> None:
    """Wait until what was sent is stored too: the last byte goes out before the file has its name."""
    async with asyncio.timeout(10):
        while any((client.mirror.folder / "partial").iterdir()):  # noqa: ASYNC110 - it is all there is to see
            await asyncio.sleep(0.01)


def files_of(cache: Path) -> set[str]:
    """Return every blob, and every file that is still on its way."""
    return {path.name for folder in ("blobs", "partial") for path in (cache / folder).rglob("*") if path.is_file()}


# export


async def test_what_is_exported_is_served_offline_by_another_mirror(
    client: MirrorClient, tmp_path: Path, run: Run
) -> None:
    other = tmp_path / "other"
    assert await asyncio.to_thread(run, "export", "alpine:3.20", APP, "-o", "images.tar") == 0
    assert await asyncio.to_thread(run, "import", "images.tar", cache=other) == 0
    async with mirror_client(other, {"cache.offline": True}) as offline:
        assert await pull(offline, "library/alpine", "3.20", *IMAGE.blobs) == IMAGE.manifest
        assert await pull(offline, "ghcr.io/owner/app", "1") == INDEX.manifest
        for image in INDEX.images:
            assert await pull(offline, "ghcr.io/owner/app", image.digest, *image.blobs) == image.manifest
        foreign = await offline.get(f"/v2/library/alpine/blobs/{AMD64.layers[0].digest}")
        assert foreign.status == 404
    assert {name for name in files_of(other) if not name.endswith(".lock")} == {
        digest.partition(":")[2] for digest in contents()
    }


def contents() -> set[str]:
    blobs = {blob.digest for image in (IMAGE, *INDEX.images) for blob in image.blobs}
    return blobs | {INDEX.digest, IMAGE.digest, AMD64.digest, ARM64.digest}


async def test_the_same_images_make_the_same_bytes(client: MirrorClient, tmp_path: Path, run: Run) -> None:
    for name in ("one.tar", "two.tar"):
        assert await asyncio.to_thread(run, "export", APP, "alpine:3.20", "-o", name) == 0
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    files = unpack(tmp_path / "one.tar")
    assert list(files)[:3] == ["oci-layout", "index.json", blob_name(INDEX.digest)]
    assert set(files) == {"oci-layout", "index.json", *map(blob_name, contents())}
    entries = json.loads(files["index.json"])["manifests"]
    assert [entry["digest"] for entry in entries] == [INDEX.digest, IMAGE.digest]
    assert [entry["annotations"][REF_NAME] for entry in entries] == [APP, ALPINE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "one.tar", "two.tar"]


async def test_platforms_that_are_not_all_there_are_left_out_and_named(
    registry: TestRegistry, start_mirror: StartMirror, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.add("owner/app", "1", INDEX)
    client = await start_mirror(upstreams={"ghcr.io": registry.base_url})
    await pull(client, "ghcr.io/owner/app", "1")
    await pull(client, "ghcr.io/owner/app", ARM64.digest)
    assert await asyncio.to_thread(run, "export", APP, "-o", "none.tar") == 1
    assert "linux/amd64, linux/arm64 is not all there" in capsys.readouterr().err
    await pull(client, "ghcr.io/owner/app", AMD64.digest, *AMD64.blobs)
    await settle(client)
    capsys.readouterr()

    assert await asyncio.to_thread(run, "export", APP, "--json", "-o", "one.tar") == 0
    said = capsys.readouterr()
    assert "linux/arm64 not wholly in this cache, left out" in said.err
    (image,) = json.loads(said.out)["images"]
    assert (image["platforms"], image["left_out"]) == (["linux/amd64"], ["linux/arm64"])
    for platform, code in (("linux/amd64", 0), ("linux/arm64", 1), ("linux/s390x", 1)):
        assert await asyncio.to_thread(run, "export", APP, "--platform", platform, "-o", "two.tar") == code
    assert f"mirror warm --platform linux/s390x {APP}" in capsys.readouterr().err.splitlines()[-1]

    other = tmp_path / "other"
    assert await asyncio.to_thread(run, "import", "one.tar", cache=other) == 0
    async with mirror_client(other, {"cache.offline": True}) as offline:
        assert await pull(offline, "ghcr.io/owner/app", "1") == INDEX.manifest
        assert await pull(offline, "ghcr.io/owner/app", AMD64.digest, *AMD64.blobs) == AMD64.manifest
        assert (await offline.get(f"/v2/ghcr.io/owner/app/manifests/{ARM64.digest}")).status == 404


async def test_what_is_missing_or_damaged_leaves_the_file_as_it_was(
    client: MirrorClient, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "images.tar"
    target.write_bytes(b"what was there")
    assert await asyncio.to_thread(run, "export", "alpine:edge", APP, "-o", target) == 1
    assert capsys.readouterr().err == (
        "mirror: docker.io/library/alpine:edge is not in this cache; "
        "fetch it with: mirror warm docker.io/library/alpine:edge\n"
    )
    digest = IMAGE.layers[0].digest.partition(":")[2]
    stored = tmp_path / "cache" / "blobs" / "sha256" / digest[:2] / digest
    rotten = bytearray(stored.read_bytes())
    rotten[100] ^= 1
    stored.write_bytes(rotten)
    assert await asyncio.to_thread(run, "export", "alpine:3.20", "-o", target) == 1
    assert "is damaged in this cache" in capsys.readouterr().err
    assert target.read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "images.tar"]
    stored.unlink()
    assert await asyncio.to_thread(run, "export", "alpine:3.20", "-o", target) == 1
    assert "1 of its 3 blobs are missing" in capsys.readouterr().err


def test_export_is_used_as_it_is_meant(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "alpine", "-o", "x.tar") == 1
    assert "nothing is cached" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    for wrong in (["-o", "x.tar"], ["A:1", "-o", "x.tar"], ["a", "--platform", "linux", "-o", "x.tar"]):
        assert run("export", *wrong) == 2
    assert run("export", "a", "--json", "-o", "-") == 2
    assert run("import", "missing.tar") == 1
    assert "cannot read missing.tar: No such file" in capsys.readouterr().err
    assert run("export", "--from", "missing", "-o", "x.tar") == 2
    assert all(line.startswith("mirror: ") for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(("output", "said"), [("none/x.tar", "No such file"), ("cache", "directory")])
async def test_where_it_cannot_be_written_it_says_so(
    client: MirrorClient, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], output: str, said: str
) -> None:
    before = sorted(tmp_path.iterdir())
    assert await asyncio.to_thread(run, "export", "alpine:3.20", "-o", output) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"mirror: cannot write {output}: ")
    assert said in error
    assert sorted(tmp_path.iterdir()) == before


# import


async def test_a_running_mirror_serves_what_is_imported(start_mirror: StartMirror, tmp_path: Path, run: Run) -> None:
    """Also where a tag moves that it has served before; and the same archive again changes nothing."""
    client = await start_mirror(offline=True)
    assert (await client.get("/v2/library/alpine/manifests/3.20")).status == 404
    for image in (IMAGE, IMAGE, NEWER):
        (tmp_path / "images.tar").write_bytes(pack(layout((image, ALPINE))))
        assert await asyncio.to_thread(run, "import", "images.tar") == 0
        async with asyncio.timeout(10):
            while (await client.get("/v2/library/alpine/manifests/3.20")).body != image.manifest:
                pass
        await pull(client, "library/alpine", "3.20", *image.blobs)
    tags = await client.get("/v2/library/alpine/tags/list")
    assert tags.json["tags"] == ["3.20"]
    assert b'mirror_cache_objects{kind="blob"} 6.0\n' in (await client.get("/metrics")).body


async def test_a_stored_blob_that_was_damaged_is_replaced(tmp_path: Path, run: Run) -> None:
    (tmp_path / "images.tar").write_bytes(pack(layout((IMAGE, ALPINE))))
    assert await asyncio.to_thread(run, "import", "images.tar") == 0
    stored = next((tmp_path / "cache" / "blobs").rglob(IMAGE.layers[0].digest.partition(":")[2]))
    stored.write_bytes(bytes(IMAGE.layers[0].size_bytes))
    assert await asyncio.to_thread(run, "import", "images.tar") == 0
    assert stored.read_bytes() == IMAGE.layers[0].content


async def test_what_a_killed_import_has_left_goes_with_the_next(tmp_path: Path, run: Run) -> None:
    (tmp_path / "images.tar").write_bytes(pack(layout((IMAGE, ALPINE))))
    abandoned, running = (tmp_path / "cache" / "partial" / f"{name}.import" for name in ("abandoned", "running"))
    for folder in (abandoned, running):
        folder.mkdir(parents=True)
        (folder / ("0" * 64)).write_bytes(b"half a blob")
    descriptor = os.open(running, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert await asyncio.to_thread(run, "import", "images.tar") == 0
    assert [folder.exists() for folder in (abandoned, running)] == [False, True]
    os.close(descriptor)
    async with mirror_client(tmp_path / "cache", {"cache.offline": True}):
        assert not running.exists()


async def test_an_archive_may_be_packed_piped_and_named(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "latest.tgz"
    archive.write_bytes(pack(layout((IMAGE, "latest")), "w:gz"))
    assert await asyncio.to_thread(run, "import", archive) == 2
    assert "--as docker.io/library/alpine:3.20" in capsys.readouterr().err
    with archive.open("rb") as stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        assert await asyncio.to_thread(run, "import", "-", "--as", "quay.io/own/er:1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "images": [{"image": "quay.io/own/er:1", "digest": IMAGE.digest, "platforms": [], "left_out": []}]
    }
    async with mirror_client(tmp_path / "cache", {"cache.offline": True}) as offline:
        assert await pull(offline, "quay.io/own/er", "1", *IMAGE.blobs) == IMAGE.manifest


async def test_where_there_is_no_room_nothing_is_imported(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images.tar").write_bytes(pack(layout((IMAGE, ALPINE))))
    for setting, value in (("min_free", "900TiB"), ("max_size", "5KiB")):
        assert await asyncio.to_thread(run, "import", "images.tar", **{setting: value}) == 1
        assert setting in capsys.readouterr().err
        assert files_of(tmp_path / "cache") == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_leaves_files_to_the_owner_of_the_cache() -> None:
    with tempfile.TemporaryDirectory(prefix="mirror-owned-") as name:
        folder, cache = Path(name), Path(name, "cache")
        folder.chmod(0o755)
        cache.mkdir()
        os.chown(cache, 4321, 4321)
        (folder / "images.tar").write_bytes(pack(layout((IMAGE, ALPINE))))
        done = run_command("import", "images.tar", "--cache-dir", str(cache), folder=folder)
        assert (done.code, done.err) == (0, "")
        assert {path.stat().st_uid for path in cache.rglob("*")} == {4321}
