"""``mirror warm``: what it has fetched is there when the upstream is not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.cli.main import main
from mirror.telemetry import logs
from tests.support.clients import ARCHITECTURE
from tests.support.commands import Finished, ask
from tests.support.faults import Fault, Hang, Slow
from tests.support.images import Image, docker_image, index_of, oci_image, oci_index
from tests.support.mirrors import MirrorProcess
from tests.support.process import RegistryProcess

INDEX, PLAIN = oci_index(970, layer_bytes=50_000), docker_image(980, layer_bytes=50_000)
LARGE = oci_image(990, layers=1, layer_bytes=8_000_000)
HERE = INDEX.image(ARCHITECTURE)
MANY = "ghcr.io/owner/many:1"
APP, ALPINE = "ghcr.io/owner/app:1", "docker.io/library/alpine:3.20"


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        started.add("owner/app", "1", INDEX)
        started.add("library/alpine", "3.20", PLAIN)
        started.add("library/large", "latest", LARGE)
        yield started


@pytest.fixture
def upstream(registry: RegistryProcess) -> Iterator[RegistryProcess]:
    registry.reset_record()
    yield registry
    registry.heal()


@contextlib.contextmanager
def mirror_of(upstream: RegistryProcess, workers: int = 1, extra: str = "") -> Iterator[MirrorProcess]:
    """Lend a mirror that does not run yet."""
    urls = {"docker.io": upstream.base_url, "ghcr.io": upstream.base_url}
    mirror = MirrorProcess(urls, workers=workers, extra=extra)
    with contextlib.ExitStack() as stack:
        stack.callback(mirror.__exit__)
        yield mirror


def statuses(mirror: MirrorProcess, name: str, image: Image) -> dict[str, str]:
    """Ask for everything of an image; return what happened to each."""
    repository = name.partition(":")[0]
    paths = [f"manifests/{image.digest}", *(f"blobs/{blob.digest}" for blob in image.blobs)]
    answers = {path: mirror.request(f"/v2/{repository}/{path}") for path in paths}
    return {path: f"{answer.status} {answer.cache_status}" for path, answer in answers.items()}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_running_mirror_has_fetched_is_there_without_its_upstream(
    upstream: RegistryProcess, workers: int
) -> None:
    with mirror_of(upstream, workers, extra='[cache]\ntag_ttl = "1h"\n') as mirror:
        mirror.start()
        result = ask(mirror, "warm", "alpine:3.20", APP, APP, "--json").result
        assert result["failed"] == []
        alpine, app = result["images"]
        assert (alpine["image"], alpine["digest"], alpine["platforms"]) == (ALPINE, PLAIN.digest, [])
        assert (app["image"], app["digest"], app["platforms"]) == (APP, INDEX.digest, [f"linux/{ARCHITECTURE}"])
        assert app["fetched_bytes"] == app["size_bytes"] == sum(blob.size_bytes for blob in HERE.blobs)
        assert upstream.count(kind="blob", method="GET") == len(HERE.blobs) + len(PLAIN.blobs)

        again = ask(mirror, "warm", "alpine:3.20", APP)
        assert (again.code, again.err) == (0, "")
        assert [line.rpartition(", ")[2] for line in again.out.splitlines()] == ["was there"] * 2
        assert upstream.count(kind="blob", method="GET") == len(HERE.blobs) + len(PLAIN.blobs)
        with stopped(upstream):
            for name, image in ((ALPINE, PLAIN), (APP, HERE)):
                assert set(statuses(mirror, name, image).values()) == {"200 mirror; hit"}
                assert mirror.request(f"/v2/{name.replace(':', '/manifests/')}").status == 200


def test_it_asks_where_a_tag_points_now_however_fresh_that_is(upstream: RegistryProcess) -> None:
    upstream.add("library/moving", "1", PLAIN)
    with mirror_of(upstream, extra='[cache]\ntag_ttl = "1h"\n') as mirror:
        mirror.start()
        assert ask(mirror, "warm", "moving:1", "--json").result["images"][0]["digest"] == PLAIN.digest
        upstream.add("library/moving", "1", LARGE)
        assert ask(mirror, "warm", "moving:1", "--json").result["images"][0]["digest"] == LARGE.digest
        assert mirror.request("/v2/library/moving/manifests/1").headers["docker-content-digest"] == LARGE.digest
        with stopped(upstream):
            done = ask(mirror, "warm", "moving:1")
            assert (done.code, done.err) == (0, "")
            assert "its upstream could not say whether the tag has moved" in done.out


@contextlib.contextmanager
def stopped(upstream: RegistryProcess) -> Iterator[None]:
    upstream.stop()
    try:
        yield
    finally:
        upstream.start()


def test_without_a_server_it_fetches_by_itself_and_leaves_nothing_running(upstream: RegistryProcess) -> None:
    with mirror_of(upstream) as mirror:
        images = mirror.folder / "images.txt"
        images.write_text(f"# what the nodes run\n\n{ALPINE}  # pinned\n{APP}\n", encoding="utf-8")
        done = ask(mirror, "warm", "--from", str(images), "--platform", "all")
        assert (done.code, done.err) == (0, "")
        size = f"{sum(blob.size_bytes for blob in PLAIN.blobs) / 1024:.1f} KiB"
        first, second = sorted(done.out.splitlines())
        assert first == f"{ALPINE}: {size}, fetched {size}"
        assert second.startswith(f"{APP} (linux/amd64, linux/arm64): ")
        assert not (mirror.cache_folder / "control.sock").exists()
        with stopped(upstream):
            mirror.start()
            for image in INDEX.images:
                assert set(statuses(mirror, APP, image).values()) == {"200 mirror; hit"}


def test_one_that_fails_stops_no_other_and_is_named(upstream: RegistryProcess) -> None:
    images = ("alpine:3.20", "alpine:none", "registry.example/a/b:1", "ghcr.io/denied/app:1", APP)
    with mirror_of(upstream, extra='[upstreams."quay.io"]\nenabled = false\n') as mirror:
        config = mirror.folder / "mirror.toml"
        config.write_text(
            config.read_text(encoding="utf-8").replace(
                '[upstreams."ghcr.io"]', '[upstreams."ghcr.io"]\ndeny = ["denied/**"]'
            )
        )
        mirror.start()
        done = ask(mirror, "warm", *images, "--platform", "linux/amd64")
        assert done.code == 1
        assert [line.partition(" ")[0] for line in done.out.splitlines()] == [f"{ALPINE}:", APP]
        assert done.err.splitlines() == [
            "mirror: docker.io/library/alpine:none: docker.io answered 404 for library/alpine",
            "mirror: registry.example/a/b:1: no upstream 'registry.example' is configured in this mirror",
            "mirror: ghcr.io/denied/app:1: this mirror is configured not to serve denied/app of ghcr.io",
            "mirror: 3 of 5 images failed; run it again to go on",
        ]
        missing = ask(mirror, "warm", APP, "--platform", "linux/s390x", "--json")
        assert missing.code == 1
        assert "it is not for linux/s390x, but for linux/amd64, linux/arm64" in missing.out


@pytest.mark.parametrize("wrong", [(), ("UPPER:1",), ("alpine", "--platform", "x"), ("--from", "missing")])
def test_what_makes_no_sense_is_misuse(wrong: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(logs, "silence", lambda: None)  # that would be for the tests of others too
    assert main(["warm", *wrong, "--cache-dir", str(tmp_path)]) == 2
    assert not any(tmp_path.iterdir())


def test_the_manifests_of_an_index_are_asked_for_some_at_a_time(upstream: RegistryProcess) -> None:
    index = index_of([oci_image(1000 + number, layers=1, layer_bytes=100) for number in range(12)])
    upstream.add("owner/many", "1", index)
    upstream.fail(*(Fault(action=Hang(), kind="manifest", path=image.digest) for image in index.images))
    with mirror_of(upstream) as mirror, ThreadPoolExecutor(1) as threads:
        file = mirror.folder / "mirror.toml"
        file.write_text(file.read_text().replace('read_timeout = "2s"', 'read_timeout = "50s"'))  # of what is held
        mirror.start()
        warming = threads.submit(ask, mirror, "warm", "--platform", "all", MANY, "--json")
        upstream.until(lambda requests: sum(one.held for one in requests) >= 8, timeout_seconds=50)
        assert upstream.count(held=True) == 8
        upstream.heal()
        upstream.release()
        assert warming.result().result["failed"] == []
        found = [statuses(mirror, MANY, image) for image in index.images]
    assert {status for one in found for status in one.values()} == {"200 mirror; hit"}


def test_it_goes_on_where_it_was_broken_off(upstream: RegistryProcess) -> None:
    layer = LARGE.layers[0]
    with mirror_of(upstream) as mirror:
        upstream.fail(Fault(action=Slow(bytes_per_second=4_000_000), kind="blob"))
        command = [sys.executable, "-m", "mirror", "warm", "large", "--config", str(mirror.folder / "mirror.toml")]
        environment = {**os.environ, "MIRROR_CACHE__DIR": str(mirror.cache_folder)}
        partial = mirror.cache_folder / "partial" / layer.digest.replace(":", "-")
        with subprocess.Popen(command, env=environment, cwd=Path.cwd()) as warming:
            while not (partial.exists() and partial.stat().st_size > layer.size_bytes // 4):
                assert warming.poll() is None
            warming.kill()
        upstream.heal()
        upstream.reset_record()
        assert ask(mirror, "warm", "large").code == 0
        assert upstream.bytes_sent("blob", reference=layer.digest) < layer.size_bytes * 4 // 5
        mirror.start()
        assert set(statuses(mirror, "library/large", LARGE).values()) == {"200 mirror; hit"}


def test_bars_are_shown_on_a_terminal_and_lines_stay(upstream: RegistryProcess) -> None:
    upstream.fail(Fault(action=Slow(bytes_per_second=8_000_000), kind="blob"))
    with mirror_of(upstream) as mirror:
        code, shown = run_on_terminal(mirror, "warm", "large", ALPINE)
    digest = LARGE.layers[0].digest.partition(":")[2]
    assert code == 0
    assert f"docker.io/library/large:latest  {digest[:12]}" in shown
    assert "%|" in shown
    assert f"{ALPINE}: " in shown


def run_on_terminal(mirror: MirrorProcess, *arguments: str) -> tuple[int, str]:
    """Run a command as somebody would who looks at it; return how it ended and what was shown."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    environment = {**os.environ, "MIRROR_CACHE__DIR": str(mirror.cache_folder)}
    command = [sys.executable, "-m", "mirror", *arguments, "--config", str(mirror.folder / "mirror.toml")]
    shown = bytearray()
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while piece := os.read(ours, 65536):
                shown += piece
        os.close(ours)
        return running.wait(), shown.decode()


def test_an_offline_mirror_fetches_nothing(upstream: RegistryProcess) -> None:
    with mirror_of(upstream, extra="[cache]\noffline = true\n") as mirror:
        done: Finished = ask(mirror, "warm", "alpine:3.20")
        assert done.code == 1
        assert "this mirror is offline, and 3.20 of docker.io/library/alpine is not stored" in done.err
        assert upstream.requests == []
