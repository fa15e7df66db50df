"""Sizes for people: everywhere in the units in which `cache.max_size` and a volume are given, in powers of 1024."""

from __future__ import annotations

from typing import Final

_STEP: Final = 1024
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(size_bytes: float) -> str:
    """Write a size for people: ``1.5 GiB``."""
    if size_bytes < _STEP:
        return f"{size_bytes:.0f} B"
    value, power = size_bytes / _STEP, 0
    while round(value, 1) >= _STEP and power < len(_UNITS) - 1:
        value, power = value / _STEP, power + 1
    return f"{value:.1f} {_UNITS[power]}"
