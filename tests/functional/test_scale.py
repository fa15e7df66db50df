"""What ``make scale`` measures on 200,000 objects, on a few: that it is right, not how fast it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mirror.oci.digest import Digest
from mirror.storage.files import Layout
from tests.scale.library import OBJECTS_OF_AN_IMAGE, make_library
from tests.scale.measures import evict, hit_latencies, mirror_on, start_seconds

_IMAGES = 60


def test_a_made_cache_is_served_and_whole_images_of_it_are_evicted(tmp_path: Path) -> None:
    made = tmp_path / "made"
    library = make_library(made, _IMAGES * OBJECTS_OF_AN_IMAGE)
    with mirror_on(tmp_path / "serving", made) as mirror:
        assert start_seconds(mirror, library.blobs[0]) > 0
        assert hit_latencies(mirror, library.manifests[-20:], 100).number == 100
        assert hit_latencies(mirror, library.blobs, 100).number == 100
    bound = library.total_bytes * 9 // 10
    with mirror_on(tmp_path / "evicting", made, max_size=f"{bound}B") as mirror:
        evicted = evict(mirror, library, bound_bytes=bound)
    assert evicted.objects >= _IMAGES // 10 * OBJECTS_OF_AN_IMAGE
    assert evicted.objects % OBJECTS_OF_AN_IMAGE == 0
    layout = Layout(made)
    with closing(sqlite3.connect(layout.ledger)) as ledger:
        for manifest, content in ledger.execute("SELECT manifest, content FROM needs"):
            assert layout.blob(Digest.parse(manifest)).exists()
            assert layout.blob(Digest.parse(content)).exists()
