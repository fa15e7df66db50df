"""``mirror verify``: names what is damaged, whether a server runs or not, and what it removes heals."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.storage.files import Layout
from tests.support.commands import ask, run_command
from tests.support.images import oci_image
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

NAME, OTHER = "library/app", "team/other"
IMAGE = oci_image(111, layers=2, layer_bytes=2_500_000)
LAYER = IMAGE.layers[1]


@pytest.fixture
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        started.add(NAME, "1", IMAGE)
        started.add(OTHER, "1", IMAGE)
        yield started


@pytest.fixture
def mirror(registry: RegistryProcess) -> Iterator[MirrorProcess]:
    extra = "[cache]\nverify = false\n"  # what is done behind the scenes finds the damage too
    with MirrorProcess({"docker.io": registry.base_url}, extra=extra) as process:
        for name in (NAME, OTHER):
            pull(process, name)
        yield process


def pull(mirror: MirrorProcess, name: str) -> list[str]:
    answers = [mirror.request(f"/v2/{name}/manifests/1")]
    answers += [mirror.request(f"/v2/{name}/blobs/{part.digest}") for part in IMAGE.blobs]
    assert [answer.body for answer in answers] == [IMAGE.manifest, *(part.content for part in IMAGE.blobs)]
    mirror.settle()
    return [answer.cache_status for answer in answers[1:]]


def damage(mirror: MirrorProcess, digest: str) -> Path:
    """Change one byte as a disk does, which changes nothing else."""
    file = Layout(mirror.cache_folder).blob(Digest.parse(digest))
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    return file


@pytest.mark.parametrize("is_running", [True, False], ids=["with a server", "without"])
def test_what_is_damaged_is_named_removed_and_heals(
    registry: RegistryProcess, mirror: MirrorProcess, *, is_running: bool
) -> None:
    if not is_running:
        mirror.stop()
    done = ask(mirror, "verify")
    assert (done.code, done.err) == (0, "")
    assert done.out == "4 files, 4.8 MiB: nothing is damaged\n"
    file = damage(mirror, LAYER.digest)
    done = ask(mirror, "verify")
    assert (done.code, done.err) == (1, "")
    assert done.out == (
        f"{LAYER.digest}  2.4 MiB  docker.io/library/app, docker.io/team/other"
        "  (removed; it is fetched again when somebody asks)\n4 files, 4.8 MiB: 1 damaged\n"
    )
    assert not file.exists()
    if not is_running:
        mirror.start()
    assert pull(mirror, NAME) == ["mirror; hit", "mirror; hit", "mirror; fwd=uri-miss; fwd-status=200; stored"]
    assert ask(mirror, "verify").code == 0


def test_json_says_the_same(mirror: MirrorProcess) -> None:
    damage(mirror, IMAGE.digest)
    done = ask(mirror, "verify", "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert (found["files"], found["size_bytes"]) == (4, IMAGE_BYTES)
    assert found["damaged"] == [
        {
            "digest": IMAGE.digest,
            "size_bytes": len(IMAGE.manifest),
            "repositories": [f"docker.io/{NAME}", f"docker.io/{OTHER}"],
            "what": "removed; it is fetched again when somebody asks",
        }
    ]
    assert ask(mirror, "verify", "--json").result["damaged"] == []


IMAGE_BYTES = len(IMAGE.manifest) + sum(part.size_bytes for part in IMAGE.blobs)


def test_a_folder_without_a_cache_is_said(tmp_path: Path) -> None:
    done = run_command("verify", "--cache-dir", str(tmp_path / "none"), folder=tmp_path)
    assert done.code == 1
    assert done.err.startswith(f"mirror: nothing is cached in {tmp_path / 'none'}; name the mirror's configuration")
    assert not (tmp_path / "none").exists()
