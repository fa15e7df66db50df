"""A bounded cache under load with faults for half a minute, and killed a few times; by make, for longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.soak.content import Library, make_library
from tests.soak.kills import run_kills
from tests.soak.soak import Plan, run_soak
from tests.support.process import RegistryProcess

SEED = 4
KILLS = 6
SECONDS = 24.0  # calm, a storm, calm


pytestmark = pytest.mark.timeout(180)  # of which it takes a tenth on an idle machine


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
    plan = Plan(seconds=SECONDS, seed=SEED, looks_at_growth=False)
    report = run_soak(plan, library, registry)
    assert report.problems() == [], report.figures()


def test_kills_leave_nothing_half_stored_and_nothing_behind(registry: RegistryProcess, library: Library) -> None:
    kills = run_kills(KILLS, SEED, library, registry)
    assert kills.problems() == [], kills.figures()
