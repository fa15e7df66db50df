"""An archive may come from anybody: whatever is wrong with one, it is refused in a line, and nothing has changed."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.cli.main import main
from mirror.errors import ArchiveInvalid
from mirror.storage.archive import read_archive
from mirror.telemetry import logs
from tests.support.archives import Members, blob_name, index_json, layout, pack, plain, special, unpack
from tests.support.images import OCI_INDEX, Index, blob, digest_of, docker_image, index_of, oci_index

IMAGE, OTHER, INDEX = (
    docker_image(950, layer_bytes=3000),
    docker_image(951, layer_bytes=500),
    oci_index(952, layer_bytes=99),
)
ALPINE = "docker.io/library/alpine:3.20"
RIGHT = layout((IMAGE, ALPINE))
LAYER = IMAGE.layers[0]


def replaced(name: str, content: bytes) -> Members:
    """Return the right archive with other content in one file."""
    return [plain(name, content) if member.name == name else (member, was) for member, was in RIGHT]


def without(*names: str) -> Members:
    return [(member, content) for member, content in RIGHT if member.name not in names]


def indexed(body: object) -> Members:
    return replaced("index.json", json.dumps(body).encode())


def named(name: str | None) -> Members:
    return replaced("index.json", index_json([(IMAGE, name)]))


def nested(depth: int) -> Members:
    """Return an index of indexes, so many deep, around a real image."""
    inner: Index = index_of((IMAGE,))
    levels = [inner]
    for _ in range(depth):
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner.descriptor]}).encode()
        inner = Index(media_type=OCI_INDEX, digest=digest_of(body), manifest=body, images=())
        levels.append(inner)
    members = [plain(blob_name(level.digest), level.manifest) for level in levels]
    return [*members, *without("index.json"), plain("index.json", index_json([(inner, ALPINE)]))]


WRONG: dict[str, tuple[Members, str]] = {
    "nothing": ([], "has no oci-layout"),
    "no marker": (without("oci-layout"), "has no oci-layout"),
    "no index": (without("index.json"), "has no index.json"),
    "an empty index": (indexed({"manifests": []}), "has no image"),
    "an index that is none": (indexed({"manifests": {}}), "lists no manifests"),
    "an index of something": (indexed({"manifests": [1]}), "is not an object"),
    "an index that is no JSON": (replaced("index.json", b"<html>"), "an HTML page"),
    "deep JSON": (replaced("index.json", b"[" * 100_000), "nested too deeply"),
    "a long index": (replaced("index.json", b" " * (5 << 20)), "longer than"),
    "a later version": (replaced("oci-layout", b'{"imageLayoutVersion": "2.0.0"}'), "of version '2.0.0'"),
    "a wrong digest": (replaced(blob_name(LAYER.digest), b"x" * LAYER.size_bytes), "is something else"),
    "a short blob": (replaced(blob_name(LAYER.digest), LAYER.content[:-1]), "is something else"),
    "a wrong manifest": (replaced(blob_name(IMAGE.digest), OTHER.manifest), "is something else"),
    "no manifest": (without(blob_name(IMAGE.digest)), "does not have its manifest"),
    "no layer": (without(blob_name(LAYER.digest)), "1 of its 3 blobs are missing"),
    "a blob that is no digest": ([plain("blobs/sha256/abc", b""), *RIGHT], "not a sha256"),
    "another algorithm": ([plain("blobs/md5/" + "0" * 32, b""), *RIGHT], "unknown digest algorithm"),
    "a blob nowhere": ([plain("blobs/abc", b""), *RIGHT], "ALGORITHM/HEX"),
    "a path above": ([plain("../evil", b"x"), *RIGHT], "leads out"),
    "a path above, deeper": ([plain("blobs/sha256/../../../evil", b"x"), *RIGHT], "leads out"),
    "an absolute path": ([plain("/etc/evil", b"x"), *RIGHT], "leads out"),
    "a symbolic link": ([special("index.json", tarfile.SYMTYPE, "/etc/passwd"), *RIGHT], "no plain file"),
    "a hard link": ([*RIGHT, special(blob_name(OTHER.digest), tarfile.LNKTYPE, "index.json")], "no plain file"),
    "a device": ([special("dev", tarfile.CHRTYPE), *RIGHT], "no plain file"),
    "a pipe": ([special("pipe", tarfile.FIFOTYPE), *RIGHT], "no plain file"),
    "two of a name": ([*RIGHT, plain("index.json", index_json([(OTHER, ALPINE)]))], "twice"),
    "two of a blob": ([*RIGHT, plain("./" + blob_name(LAYER.digest), LAYER.content)], "twice"),
    "an unusable name": (named("docker.io/library/UPPER:1"), "is not a repository name"),
    "a long name": (named("docker.io/" + "a" * 5000 + ":1"), "longer than"),
    "somebody else's": (named("registry.example/owner/app:1"), "not an upstream of this configuration"),
    "another digest": (named(f"alpine@{OTHER.digest}"), "the archive calls"),
    "too deep": (nested(6), "what it lists is not all there"),
    "only an index": (
        layout((INDEX, ALPINE), without=[one.digest for one in INDEX.images]),
        "linux/amd64, linux/arm64 is not all there",
    ),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a cache with an image, which is still there after all that was refused."""
    folder = tmp_path_factory.mktemp("carried")
    (folder / "before.tar").write_bytes(pack(layout((OTHER, ALPINE))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "silence", lambda: None)  # that would be for the tests of others too
        cache = folder / "cache"
        assert main(["import", str(folder / "before.tar"), "--cache-dir", str(cache)]) == 0
        yield cache
        assert main(["export", ALPINE, "-o", str(folder / "after.tar"), "--cache-dir", str(cache)]) == 0
    files = unpack(folder / "after.tar")
    assert json.loads(files["index.json"])["manifests"][0]["digest"] == OTHER.digest


def import_bytes(content: bytes, cache: Path) -> int:
    archive = cache.with_name("tried.tar")
    archive.write_bytes(content)
    return main(["import", str(archive), "--cache-dir", str(cache)])


def state(folder: Path) -> dict[str, bytes]:
    """Return every file of a cache but those of SQLite, which it may rewrite at will."""
    files = (path for path in folder.rglob("*") if path.is_file() and "index" not in path.relative_to(folder).parts)
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.parametrize(("members", "said"), WRONG.values(), ids=WRONG)
def test_it_is_refused_and_nothing_has_changed(
    members: Members, said: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(cache)
    assert import_bytes(pack(members), cache) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert said in told.err
    assert len(told.err) < 500
    assert state(cache) == before


PACKED = pack(RIGHT)
TORN = {
    "no tar file": b"something else" * 100,
    "nothing": b"",
    "cut in a header": PACKED[:700],
    "cut in a blob": PACKED[: len(PACKED) // 2],
    "cut gzip": gzip.compress(PACKED)[:3000],
    "broken gzip": b"\x1f\x8b" + bytes(500),
    "a wrong checksum": PACKED[:148] + b"9999999 " + PACKED[156:],
}


@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
def test_what_is_torn_is_refused(content: bytes, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(cache)
    assert import_bytes(content, cache) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert state(cache) == before


@given(st.lists(st.tuples(st.integers(0, len(PACKED) - 1), st.integers(0, 255)), max_size=6))
def test_whatever_is_changed_it_is_refused_or_leads_nowhere_else(changes: list[tuple[int, int]]) -> None:
    content = bytearray(PACKED)
    for position, byte in changes:
        content[position] = byte
    with contextlib.suppress(ArchiveInvalid):
        for member in read_archive(io.BufferedReader(io.BytesIO(content))):
            assert ".." not in member.name.split("/")
            assert not member.name.startswith("/")
            assert sum(map(len, member.pieces())) == member.size_bytes


def test_a_blob_that_belongs_to_no_image_is_left_behind(cache: Path) -> None:
    spare, newer = blob(5000, 960), docker_image(953, layer_bytes=10)
    archive = [plain(blob_name(spare.digest), spare.content), *layout((newer, "docker.io/library/newer:1"))]
    assert import_bytes(pack(archive), cache) == 0
    kept = state(cache).values()
    assert newer.manifest in kept
    assert spare.content not in kept


# what `tarfile` reads before anybody can look at it


def header(name: str, kind: bytes, size_bytes: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size_bytes
    return member.tobuf(tarfile.GNU_FORMAT)


HUGE = 8 << 30
ENDLESS = {
    "a pax header": header("pax", tarfile.XHDTYPE, HUGE),
    "a global pax header": header("pax", tarfile.XGLTYPE, HUGE),
    "a long name": header("name", tarfile.GNUTYPE_LONGNAME, HUGE),
    "headers for headers": header("pax", tarfile.XHDTYPE, 0) * 4000,
    "a negative size": header("index.json", tarfile.REGTYPE, 0)[:124] + b"\xff" * 12 + bytes(376),
}


class Zeros(io.RawIOBase):
    """A beginning, and zeros for as long as anybody reads."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = io.BytesIO(beginning)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # of what a reader gives
        content = self._beginning.read(len(buffer)) or bytes(len(buffer))
        buffer[: len(content)] = content
        return len(content)


@pytest.mark.parametrize("beginning", ENDLESS.values(), ids=ENDLESS)
def test_no_header_takes_more_than_a_little_memory(beginning: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveInvalid):
            for _ in read_archive(io.BufferedReader(Zeros(beginning))):
                pass
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_an_archive_of_entries_without_end_is_refused() -> None:
    entry = header("folder", tarfile.DIRTYPE, 0)
    with pytest.raises(ArchiveInvalid, match="entries"):
        list(read_archive(io.BufferedReader(io.BytesIO(entry * 1001)), most_members=1000))
