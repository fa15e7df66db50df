"""``Authorization: Basic``: a user's name and password.

Spec: https://www.rfc-editor.org/rfc/rfc7617.html#section-2
"""

from __future__ import annotations

import base64
import binascii


def parse_basic(header: str) -> tuple[str, bytes] | None:
    """Return name and password, or None for anything else; a password may be any bytes."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
        name, separator, password = decoded.partition(b":")
        return (name.decode(), password) if separator else None
    except (binascii.Error, ValueError):  # no base64, no ASCII, a name that is not UTF-8
        return None
