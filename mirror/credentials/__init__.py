"""What upstreams know us by: where credentials are kept, how they are found, when they have changed."""

from __future__ import annotations

from mirror.credentials.credential import Credential

__all__ = ["Credential"]
