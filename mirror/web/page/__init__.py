"""The page at ``/``, for people: how the mirror does, at a glance and live."""

from __future__ import annotations
