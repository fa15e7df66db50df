"""Sizes as people read them."""

from __future__ import annotations

import pytest

from mirror.config.values import size
from mirror.sizes import format_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 52, "1023.9 KiB"),
        (1024**2 - 51, "1.0 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (2000 * 2**50, "2000.0 PiB"),
    ],
)
def test_sizes_are_in_powers_of_1024_with_a_decimal(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize("written", ["512.0KiB", "1.5MiB", "50.0GiB", "2.0TiB"])
def test_what_is_configured_is_shown_as_it_was_written(written: str) -> None:
    assert format_bytes(size().read(written)).replace(" ", "") == written
