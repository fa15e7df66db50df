"""A bounded cache under load with faults, for half a minute; ``make soak`` gives it ten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.soak.content import Library, make_library
from tests.soak.soak import Plan, run_soak
from tests.support.process import RegistryProcess

SEED = 4
SECONDS = 24.0  # calm, a storm, calm
WARMING_UP_BYTES = 100_000_000  # caches fill, and a heap finds its size


@pytest.fixture(scope="module")
def library() -> Library:
    return make_library(scale=0.3)


@pytest.fixture(scope="module")
def registry(library: Library) -> Iterator[RegistryProcess]:
    with RegistryProcess() as started:
        library.publish(started)
        yield started


def test_a_bounded_cache_fails_no_pull_that_its_upstream_could_have_served(
    registry: RegistryProcess, library: Library
) -> None:
    """What exactly that means, `run_soak` says; nothing may be over the bound, left behind, or wrong at the end."""
    plan = Plan(seconds=SECONDS, seed=SEED, memory_growth_bytes=WARMING_UP_BYTES)
    report = run_soak(plan, library, registry)
    assert report.problems() == [], report.figures()
