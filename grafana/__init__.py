"""Makes the dashboard that Grafana shows; nothing of the mirror needs it."""

from __future__ import annotations
