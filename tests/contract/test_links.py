"""The link files: what the index is rebuilt from, whatever has happened to either."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import Repository, Tag
from mirror.oci.requests import Page
from mirror.policy import StoredTag
from mirror.ports import Held
from mirror.storage.blobs import FileBlobStore
from mirror.storage.files import Layout
from mirror.storage.index import DiskIndex
from mirror.storage.links import LinkFiles, Position

APP = Repository("docker.io", "library/app")
OTHER = Repository("ghcr.io", "owner/team/other")
CONTENTS = [b"one", b"two", b"three"]
ONE, TWO, THREE = (
    Descriptor(media_type="application/vnd.oci.image.manifest.v1+json", digest=Digest.of(it), size_bytes=len(it))
    for it in CONTENTS
)


@pytest.fixture
async def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "cache")
    made.create()
    for content in CONTENTS:
        await FileBlobStore(made).put(Digest.of(content), content)
    return made


@pytest.fixture
def links(layout: Layout) -> LinkFiles:
    return LinkFiles(layout.links)


def held(descriptor: Descriptor) -> Held:
    return Held(descriptor=descriptor, is_manifest=True)


async def test_an_index_that_is_lost_knows_what_it_knew(layout: Layout) -> None:
    tag = StoredTag(descriptor=ONE, confirmed_at=12.5)
    with closing(DiskIndex(layout.index)) as index:
        await index.put_held(APP, [held(ONE), held(TWO)])
        await index.put_held(OTHER, [held(THREE)])
        await index.drop_held(APP, TWO.digest)
        await index.put_tag(APP, Tag("1"), tag)
        await index.put_tag(APP, Tag("2"), tag)
        await index.drop_tag(APP, Tag("2"))
    shutil.rmtree(layout.index)
    layout.create()
    with closing(DiskIndex(layout.index)) as index:
        assert await index.find_tag(APP, Tag("1")) == tag
        assert await index.find_tag(APP, Tag("2")) is None
        assert await index.tags_of(APP) == ["1"]
        assert await index.find_held(APP, ONE.digest) == held(ONE)
        assert await index.find_held(APP, TWO.digest) is None
        assert await index.find_held(APP, THREE.digest) is None
        assert await index.find_held(OTHER, THREE.digest) == held(THREE)
        assert await index.repositories(Page()) == ([APP, OTHER], False)


async def test_a_tag_is_written_down_when_it_moves_and_once_an_hour(layout: Layout, links: LinkFiles) -> None:
    with closing(DiskIndex(layout.index)) as index:
        for at in (1000, 1060, 1120):
            await index.put_tag(APP, Tag("1"), StoredTag(descriptor=ONE, confirmed_at=at))
        size_bytes = _size(links)
        await index.put_tag(APP, Tag("1"), StoredTag(descriptor=ONE, confirmed_at=4599))
        assert _size(links) == size_bytes
        assert await index.find_tag(APP, Tag("1")) == StoredTag(descriptor=ONE, confirmed_at=4599)
        await index.put_tag(APP, Tag("1"), StoredTag(descriptor=ONE, confirmed_at=4600))
        assert _size(links) > size_bytes
        await index.put_tag(APP, Tag("1"), StoredTag(descriptor=TWO, confirmed_at=4601))
    assert links.read(APP, None)[0][":1"] == {
        "mediaType": TWO.media_type,
        "size": TWO.size_bytes,
        "digest": str(TWO.digest),
        "confirmed": 4601,
        "noted": 4601,
    }


async def test_what_is_no_longer_stored_is_not_taken_up(layout: Layout) -> None:
    with closing(DiskIndex(layout.index)) as index:
        await index.put_held(APP, [held(ONE), held(TWO)])
        await index.put_tag(APP, Tag("1"), StoredTag(descriptor=ONE, confirmed_at=1))
    layout.blob(ONE.digest).unlink()
    shutil.rmtree(layout.index)
    layout.create()
    with closing(DiskIndex(layout.index)) as index:
        assert await index.find_held(APP, ONE.digest) is None
        assert await index.find_held(APP, TWO.digest) is not None
        assert await index.tags_of(APP) == []


async def test_two_workers_see_what_the_other_has_added(layout: Layout) -> None:
    with closing(DiskIndex(layout.index)) as index, closing(DiskIndex(layout.index)) as other:
        for mine, one in ((index, ONE), (other, TWO), (index, THREE)):
            await mine.put_held(APP, [held(one)])
        for each in (index, other):
            assert [await each.find_held(APP, one.digest) for one in (ONE, TWO, THREE)] == [
                held(ONE),
                held(TWO),
                held(THREE),
            ]


@pytest.mark.parametrize("damage", [b'{"@sha', b"\0\0\0", b"[1]\nnull\n{}\n", b'{"@x":{"size":1},":1":{},"@y":7}\n'])
async def test_a_line_that_makes_no_sense_is_left_out(layout: Layout, links: LinkFiles, damage: bytes) -> None:
    with closing(DiskIndex(layout.index)) as index:
        await index.put_held(APP, [held(ONE)])
        with _path(links).open("ab") as file:
            file.write(damage)
        await index.put_held(APP, [held(TWO)])
    shutil.rmtree(layout.index)
    layout.create()
    with closing(DiskIndex(layout.index)) as index:
        for one in (ONE, TWO):
            assert await index.find_held(APP, one.digest) == held(one)


@pytest.mark.parametrize("content", [None, b"", b"garbage"], ids=["gone", "empty", "garbage"])
async def test_an_index_whose_link_file_is_lost_keeps_what_it_knows(
    layout: Layout, links: LinkFiles, content: bytes | None
) -> None:
    with closing(DiskIndex(layout.index)) as index:
        await index.put_held(APP, [held(ONE)])
        _path(links).unlink() if content is None else _path(links).write_bytes(content)
        assert await index.find_held(APP, ONE.digest) == held(ONE)
        await index.put_held(APP, [held(TWO)])
        for one in (ONE, TWO):
            assert await index.find_held(APP, one.digest) == held(one)


def test_a_file_that_was_written_anew_is_read_from_its_beginning(links: LinkFiles) -> None:
    _, end = links.append(APP, {"@a": {}})
    for number in range(50):
        _, end = links.append(APP, {"@a": {"n": number}, f"@{number}": {"n": 0}})
    assert links.read(APP, end) == ({}, end)
    assert links.compact(APP, lambda key, _: key in {"@a", "@7"})
    assert sorted(path.name for path in _path(links).parent.iterdir()) == ["library+app"]
    rows, anew = links.read(APP, end)
    assert rows == {"@a": {"n": 49}, "@7": {"n": 0}}
    assert anew is not None
    assert anew.file != end.file
    start, _ = links.append(APP, {"@b": None})
    assert start == anew
    assert links.read(APP, anew)[0] == {"@b": None}
    assert not links.compact(APP, lambda *_: False)
    assert list(links.repositories()) == []
    assert links.read(APP, anew) == ({}, None)


def test_a_name_as_long_as_names_get_has_a_file(links: LinkFiles) -> None:
    longest = Repository("docker.io", "a/" * 127 + "b")
    links.append(longest, {"@a": {}})
    assert list(links.repositories()) == [longest]


def test_a_link_is_not_followed(links: LinkFiles, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    _path(links).parent.mkdir(parents=True)
    _path(links).symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        links.append(APP, {"@a": {}})


def test_a_position_is_read_as_it_was_written() -> None:
    assert Position.parse(str(Position("0123", 5, 6))) == Position("0123", 5, 6)
    for text in (None, "", "a b c", "a 1", "a 1 2 3"):
        assert Position.parse(text) is None


def _path(links: LinkFiles) -> Path:
    return links._path(APP)  # noqa: SLF001 - the file itself is what is damaged here


def _size(links: LinkFiles) -> int:
    return _path(links).stat().st_size
