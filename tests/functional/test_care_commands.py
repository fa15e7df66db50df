"""``mirror ls``, ``pin``, ``unpin``, ``rm``, ``gc`` and ``status``, beside a server or without one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import MirrorError, UsageError
from tests.support.commands import ask, control
from tests.support.images import Image, Index, blob, oci_image, oci_index
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

APP, OTHER = "library/app", "owner/other"
LONG = '[cache]\ntag_ttl = "1h"\n'
ONE, TWO, INDEX = oci_image(1, layers=2), oci_image(2, layers=1), oci_index(3, layers=1)


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        started.add(APP, "1", ONE)
        started.add(APP, "one", ONE)
        started.add(APP, "2", TWO)
        started.add(APP, "index", INDEX)
        started.add(OTHER, "1", ONE)
        yield started


@pytest.fixture
def mirror(request: pytest.FixtureRequest, registry: RegistryProcess) -> Iterator[MirrorProcess]:
    """Workers as the test's parameter says; 0 for none, when the cache has been filled."""
    workers: int = getattr(request, "param", 1)
    with MirrorProcess({"docker.io": registry.base_url}, workers=workers or 1, extra=LONG) as running:
        yield running


def pull(mirror: MirrorProcess, repository: str, tag: str, image: Image) -> None:
    for part in (f"manifests/{tag}", f"manifests/{image.digest}", *(f"blobs/{one.digest}" for one in image.blobs)):
        assert mirror.request(f"/v2/{repository}/{part}").status == 200
    mirror.settle()


def images_of(told: list[Any]) -> dict[str, Any]:
    return {f"{one['repository']}:{','.join(image['tags'])}": image for one in told for image in one["images"]}


def listed(mirror: MirrorProcess, repository: str | None = None) -> dict[str, Any]:
    _, told = control(mirror, "ls", **({} if repository is None else {"repository": repository}))
    return images_of(told)


def stored(mirror: MirrorProcess) -> set[str]:
    return {f"{path.parts[-3]}:{path.name}" for path in (mirror.cache_folder / "blobs").rglob("*") if path.is_file()}


def all_of(image: Image) -> set[str]:
    return {image.digest, *(part.digest for part in image.blobs)}


def size_of(image: Image) -> int:
    return len(image.manifest) + sum(part.size_bytes for part in image.blobs)


def pull_index(mirror: MirrorProcess, index: Index) -> Image:
    assert mirror.request(f"/v2/{APP}/manifests/index").status == 200
    image = index.image("amd64")
    pull(mirror, APP, image.digest, image)
    return image


def test_ls_lists_what_is_cached_by_image(mirror: MirrorProcess) -> None:
    assert control(mirror, "ls") == ({"images": 0}, [])
    pull(mirror, APP, "1", ONE)
    pull(mirror, APP, "one", ONE)
    pull(mirror, OTHER, ONE.digest, ONE)
    amd64 = pull_index(mirror, INDEX)
    images = listed(mirror)
    assert set(images) == {"docker.io/library/app:1,one", "docker.io/library/app:index", "docker.io/owner/other:"}
    assert images["docker.io/library/app:1,one"]["size_bytes"] == size_of(ONE)
    assert images["docker.io/library/app:index"]["size_bytes"] == len(INDEX.manifest) + size_of(amd64)
    assert images["docker.io/owner/other:"]["digest"] == ONE.digest
    _, told = control(mirror, "ls", repository="app")
    assert [one["size_bytes"] for one in told] == [size_of(ONE) + len(INDEX.manifest) + size_of(amd64)]
    table = ask(mirror, "ls", "app:1").out.splitlines()
    assert [line.split()[0] for line in table] == ["IMAGE", "docker.io/library/app:1", "docker.io/library/app:one"]
    mirror.stop()
    assert listed(mirror) == images
    assert set(listed(mirror, "owner/other")) == {"docker.io/owner/other:"}
    assert set(listed(mirror, "docker.io")) == set(images)
    with pytest.raises(MirrorError, match=r"ghcr.io/owner/name is not in this cache; mirror ls says what is"):
        control(mirror, "ls", repository="ghcr.io/owner/name")
    document = ask(mirror, "ls", "owner/other", "--json").result
    assert [one["repository"] for one in document["repositories"]] == ["docker.io/owner/other"]


@pytest.mark.parametrize("mirror", [0, 1, 2], indirect=True, ids=["no-server", "one-worker", "two-workers"])
def test_rm_takes_an_image_out_and_leaves_what_others_need(
    mirror: MirrorProcess, request: pytest.FixtureRequest
) -> None:
    pull(mirror, APP, "1", ONE)
    pull(mirror, APP, "2", TWO)
    pull(mirror, OTHER, "1", ONE)
    if "no-server" in request.node.name:
        mirror.stop()
    removed, _ = control(mirror, "rm", image="app:1")
    assert (removed["tags"], removed["removed"], removed["freed_bytes"]) == (["1"], [], 0)
    assert set(listed(mirror)) == {"docker.io/library/app:2", "docker.io/owner/other:1"}
    assert stored(mirror) == all_of(ONE) | all_of(TWO)
    removed, _ = control(mirror, "rm", image="owner/other:1")
    assert set(removed["removed"]) == all_of(ONE)
    assert removed["freed_bytes"] == size_of(ONE)
    assert stored(mirror) == all_of(TWO)
    with pytest.raises(MirrorError, match=r"docker.io/owner/other:1 is not in this cache"):
        control(mirror, "rm", image="owner/other:1")


@pytest.mark.parametrize("mirror", [2], indirect=True)
def test_no_worker_answers_from_memory_what_was_removed(mirror: MirrorProcess, registry: RegistryProcess) -> None:
    for _ in range(20):  # whichever worker answers
        pull(mirror, APP, "1", ONE)
    control(mirror, "rm", image=f"app@{ONE.digest}")
    registry.reset_record()
    moved = oci_image(9, layers=1)
    registry.add(APP, "1", moved)
    try:
        answers = {mirror.request(f"/v2/{APP}/manifests/1").body for _ in range(20)}
        assert answers == {moved.manifest}
        assert registry.count(kind="manifest", method="GET") == 1
    finally:
        registry.add(APP, "1", ONE)


def test_rm_of_a_repository_takes_all_of_it_and_the_catalog_forgets_it(mirror: MirrorProcess) -> None:
    pull(mirror, APP, "1", ONE)
    pull(mirror, APP, "2", TWO)
    pull_index(mirror, INDEX)
    pull(mirror, OTHER, "1", ONE)
    with pytest.raises(MirrorError, match=r"docker.io/library/app:latest is not in this cache"):
        control(mirror, "rm", image="app")
    assert ask(mirror, "rm", "--all-tags", "app").out.startswith("Removed docker.io/library/app: ")
    assert stored(mirror) == all_of(ONE)
    assert json.loads(mirror.request("/v2/_catalog").body) == {"repositories": ["owner/other"]}
    with pytest.raises(MirrorError, match=r"not in this cache"):
        control(mirror, "ls", repository="app")


def test_rm_of_an_index_takes_its_platforms_along(mirror: MirrorProcess) -> None:
    pull_index(mirror, INDEX)
    control(mirror, "rm", image="app:index")
    assert stored(mirror) == set()


@pytest.mark.parametrize("mirror", [0, 1], indirect=True, ids=["no-server", "one-worker"])
def test_what_is_pinned_is_not_removed_until_it_is_unpinned(
    mirror: MirrorProcess, request: pytest.FixtureRequest
) -> None:
    pull(mirror, APP, "1", ONE)
    if "no-server" in request.node.name:
        mirror.stop()
    assert control(mirror, "pin", image="app:1")[0] == {"image": "docker.io/library/app:1", "digest": ONE.digest}
    for arguments in ({"image": "app:1"}, {"image": f"app@{ONE.digest}"}, {"image": "app", "all_tags": True}):
        with pytest.raises(MirrorError, match=r"pin"):
            control(mirror, "rm", **arguments)
    assert listed(mirror)["docker.io/library/app:1"]["pins"] == ["1"]
    written = "".join(path.read_text() for path in Path(mirror.cache_folder / "links").rglob("*") if path.is_file())
    assert '"!1"' in written  # so that a lost index loses no pin
    control(mirror, "unpin", image="app:1")
    with pytest.raises(MirrorError, match=r"app:1 is not pinned"):
        control(mirror, "unpin", image="app:1")
    control(mirror, "rm", image="app:1")
    with pytest.raises(MirrorError, match=r"fetch it with: mirror warm docker.io/library/app:1"):
        control(mirror, "pin", image="app:1")


def test_a_pinned_image_is_never_evicted(registry: RegistryProcess) -> None:
    extra = f'[cache]\nmin_free = "0"\nmax_size = "{size_of(ONE) + 2 * size_of(TWO)}B"\n'
    with MirrorProcess({"docker.io": registry.base_url}, extra=extra) as mirror:
        pull(mirror, APP, "1", ONE)
        control(mirror, "pin", image="app:1")
        for number in range(10, 16):
            image = oci_image(number, layers=1)
            registry.add(APP, str(number), image)
            pull(mirror, APP, str(number), image)
        assert all_of(ONE) <= stored(mirror)
        assert "cache.evicted" in {event["event"] for event in mirror.events()}


@pytest.mark.parametrize("mirror", [0, 1], indirect=True, ids=["no-server", "one-worker"])
def test_gc_removes_what_nothing_needs(
    mirror: MirrorProcess, registry: RegistryProcess, request: pytest.FixtureRequest
) -> None:
    pull(mirror, APP, "1", ONE)
    loose = blob(50_000, 77)
    registry.add_blob(APP, loose)
    assert mirror.request(f"/v2/{APP}/blobs/{loose.digest}").status == 200
    mirror.settle()
    if "no-server" in request.node.name:
        mirror.stop()
    left = mirror.cache_folder / "partial" / f"sha256-{'a' * 64}"
    left.write_bytes(b"x" * 1000)
    os.utime(left, (0, 0))
    kept, _ = control(mirror, "gc")
    assert kept == {"files": {"blobs": 0, "downloads": 1, "temporary": 0, "databases": 0}, "freed_bytes": 1000}
    assert loose.digest in stored(mirror)
    freed = ask(mirror, "gc", "--older-than", "0s")
    assert (freed.code, freed.out) == (0, "Freed 48.8 KiB: 1 blobs\n")
    assert stored(mirror) == all_of(ONE)
    assert not left.exists()


def test_status_says_what_the_server_has_done(mirror: MirrorProcess) -> None:
    pull(mirror, APP, "1", ONE)
    status, _ = control(mirror, "status")
    assert status["cache"]["size_bytes"] == size_of(ONE)
    assert status["cache"]["objects"] == {"blob": len(ONE.blobs), "manifest": 1}
    assert status["server"]["overview"]["life"]["requests"] == 2 + len(ONE.blobs)
    shown = ask(mirror, "status").out
    assert "Server     runs: mirror " in shown
    assert "docker.io" in shown
    assert "\x1b" not in shown
    mirror.stop()
    assert "Server     does not run" in ask(mirror, "status").out


def test_what_makes_no_sense_is_misuse(mirror: MirrorProcess) -> None:
    pull(mirror, APP, "1", ONE)
    for command, argument in (("rm", "App:1"), ("gc", "--older-than=soon")):
        failed = ask(mirror, command, argument)
        assert (failed.code, failed.out, failed.err.count("\n")) == (2, "", 1), failed.err
    for operation, arguments in (
        ("pin", {"image": "app:"}),
        ("unpin", {"image": "app@sha256:abc"}),
        ("ls", {"repository": "a//b"}),
        ("rm", {}),
        ("rm", {"image": 1}),
        ("rm", {"image": "app", "all_tags": "yes"}),
        ("gc", {"older_than_seconds": -1}),
    ):
        with pytest.raises(UsageError):
            control(mirror, operation, **arguments)


def test_changes_are_logged_with_who_asked(mirror: MirrorProcess) -> None:
    pull(mirror, APP, "1", ONE)
    control(mirror, "pin", image="app:1")
    with pytest.raises(MirrorError):
        control(mirror, "rm", image="app:1")
    events = [event for event in mirror.events() if event["event"] == "cache.changed"]
    assert [(event["operation"], event["error"] is None) for event in events] == [("pin", True), ("rm", False)]
    assert {event["by"] for event in events} == {f"user {os.getuid()}, process {os.getpid()}"}
    assert events[0]["arguments"] == {"image": "app:1"}
