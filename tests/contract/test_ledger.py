"""The accounts by which the cache is bounded: what goes, in which order, and what goes with it."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.oci.media_types import OCI_INDEX, OCI_MANIFEST, OCTET_STREAM
from mirror.oci.reference import Repository, Tag
from mirror.oci.requests import Kind
from mirror.ports import Totals
from mirror.storage.ledger import Ledger

ALPINE = Repository("docker.io", "library/alpine")
OTHER = Repository("ghcr.io", "owner/other")
EVERYTHING = 10**12


def digest_of(name: str) -> Digest:
    return Digest.of(name.encode())


def described(names: Sequence[str], media_type: str = OCTET_STREAM) -> tuple[Descriptor, ...]:
    return tuple(Descriptor(media_type=media_type, digest=digest_of(name), size_bytes=10) for name in names)


def manifest(name: str, *, blobs: Sequence[str] = (), manifests: Sequence[str] = ()) -> Manifest:
    return Manifest(
        media_type=OCI_INDEX if manifests else OCI_MANIFEST,
        digest=digest_of(name),
        body=b"x",
        blobs=described(blobs),
        manifests=described(manifests, OCI_MANIFEST),
    )


def store(
    ledger: Ledger, name: str, *blobs: str, used: float, repository: Repository = ALPINE, manifests: Sequence[str] = ()
) -> None:
    ledger.add_manifest(repository, manifest(name, blobs=blobs, manifests=manifests), used)
    for one in blobs:
        ledger.add_blob(digest_of(one), 10, used)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db")) as opened:
        yield opened


def evict(ledger: Ledger, size_bytes: int = 1) -> set[str]:
    known = {digest_of(name): name for name in "ABCDEFIJabcdefgh"}
    return {known[digest] for digest in ledger.evict(size_bytes, limit=100).digests}


def test_the_least_recently_used_image_goes_first_and_whole(ledger: Ledger) -> None:
    store(ledger, "A", "a", "b", used=1)
    store(ledger, "B", "c", "d", used=2)
    store(ledger, "C", "e", used=3)
    ledger.touch([digest_of("A")], 4)
    assert ledger.totals() == Totals(size_bytes=53, objects={Kind.BLOB: 5, Kind.MANIFEST: 3})
    assert [evict(ledger) for _ in range(4)] == [{"B", "c", "d"}, {"C", "e"}, {"A", "a", "b"}, set()]
    assert ledger.totals() == Totals(size_bytes=0, objects={Kind.BLOB: 0, Kind.MANIFEST: 0})


def test_a_shared_blob_counts_once_and_stays_while_an_image_needs_it(ledger: Ledger) -> None:
    store(ledger, "A", "a", "b", used=1)
    store(ledger, "B", "a", "c", used=2, repository=OTHER)
    assert ledger.totals().objects[Kind.BLOB] == 3
    assert evict(ledger) == {"A", "b"}
    assert evict(ledger) == {"B", "a", "c"}


def test_a_blob_that_came_before_its_manifest_is_needed_too(ledger: Ledger) -> None:
    ledger.add_blob(digest_of("a"), 10, 1)
    ledger.add_blob(digest_of("b"), 10, 2)
    ledger.add_manifest(ALPINE, manifest("A", blobs=["a"]), 3)
    assert [evict(ledger) for _ in range(2)] == [{"b"}, {"A", "a"}]


def test_an_index_takes_its_images_along_but_not_one_that_was_used_since(ledger: Ledger) -> None:
    store(ledger, "A", "a", used=1)
    store(ledger, "B", "b", used=1)
    store(ledger, "I", used=2, manifests=["A", "B", "missing"])
    ledger.touch([digest_of("B")], 5)
    store(ledger, "C", "c", used=3)
    assert [evict(ledger) for _ in range(3)] == [{"I", "A", "a"}, {"C", "c"}, {"B", "b"}]


def test_what_is_pinned_stays_with_all_that_it_needs(ledger: Ledger) -> None:
    store(ledger, "A", "a", used=1)
    store(ledger, "I", used=1, manifests=["A"])
    store(ledger, "B", "b", used=2)
    ledger.pin(ALPINE, "3", digest_of("I"))
    assert evict(ledger, EVERYTHING) == {"B", "b"}
    assert ledger.unpin(ALPINE, "3")
    assert not ledger.unpin(ALPINE, "3")
    assert evict(ledger, EVERYTHING) == {"I", "A", "a"}


def test_the_pin_of_a_tag_goes_where_the_tag_goes(ledger: Ledger) -> None:
    store(ledger, "A", "a", used=1)
    ledger.point_tag(ALPINE, Tag("3"), digest_of("A"))
    ledger.pin(ALPINE, "3", digest_of("A"))
    ledger.point_tag(ALPINE, Tag("3"), digest_of("B"))
    store(ledger, "B", "b", used=0)
    assert evict(ledger, EVERYTHING) == {"A", "a"}


def test_what_is_forgotten_with_an_image_is_what_its_repository_holds_by_nothing_else(ledger: Ledger) -> None:
    store(ledger, "A", "a", "b", "c", used=1)
    store(ledger, "B", "a", used=2)
    store(ledger, "C", "b", used=3, repository=OTHER)
    ledger.add_holder(ALPINE, digest_of("c"))
    ledger.point_tag(ALPINE, Tag("3"), digest_of("A"))
    removal = ledger.evict(1, limit=100)
    assert set(removal.digests) == {digest_of("A"), digest_of("c")}
    assert set(removal.links) == {(ALPINE, digest_of(name)) for name in "Abc"}  # a: B has it too
    assert removal.tags == [(ALPINE, Tag("3"))]


def test_what_was_taken_out_is_doomed_until_it_is_gone_or_back(ledger: Ledger) -> None:
    store(ledger, "A", "a", "b", used=1)
    removed = ledger.evict(1, limit=100).digests
    assert set(ledger.doomed(10)) == set(removed)
    ledger.add_blob(digest_of("a"), 10, 2)
    ledger.bury([digest_of("b")])
    assert ledger.doomed(10) == [digest_of("A")]


def test_uses_of_what_there_is_no_account_of_are_told(ledger: Ledger) -> None:
    store(ledger, "A", "a", used=1)
    assert ledger.touch([digest_of("a"), digest_of("b")], 2) == [digest_of("b")]


def test_another_version_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path)) as ledger:
        store(ledger, "A", used=1)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with closing(Ledger(path)) as ledger:
        assert ledger.totals().size_bytes == 0
    assert [one.name.partition("-")[0] for one in tmp_path.glob("*damaged*")] == ["ledger.db.damaged"]


IMAGES = st.lists(
    st.tuples(st.sampled_from("ABCDEF"), st.sets(st.sampled_from("abcdefgh")), st.integers(0, 9), st.booleans()),
    max_size=12,
)


@given(images=IMAGES, goals=st.lists(st.integers(1, 60), max_size=5))
@settings(deadline=None)
def test_nothing_goes_that_a_kept_image_needs_and_the_sums_are_right(
    images: list[tuple[str, set[str], int, bool]], goals: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Ledger(Path(folder) / "ledger.db")) as ledger:
        needs: dict[str, set[str]] = {}
        uses: dict[str, int] = {}
        pinned = set()
        for name, blobs, used, is_pinned in images:
            if name not in needs:  # a digest's content never changes
                needs[name] = blobs
            store(ledger, name, *needs[name], used=used)
            uses[name] = max(used, uses.get(name, 0))
            if is_pinned:
                ledger.pin(ALPINE, name.lower(), digest_of(name))
                pinned.add(name)
        kept = set(needs) | {blob for blobs in needs.values() for blob in blobs}
        for goal in goals:
            before = {name for name in needs if name in kept}
            gone = evict(ledger, goal)
            kept -= gone
            assert not gone & pinned
            assert all(needs[name] <= kept for name in needs if name in kept)
            assert kept <= {one for name in needs if name in kept for one in (name, *needs[name])}
            left = [uses[name] for name in before - gone - pinned]
            assert not left or all(uses[name] <= min(left) for name in gone & before)
        assert ledger.totals().size_bytes == sum(1 if name in needs else 10 for name in kept)
