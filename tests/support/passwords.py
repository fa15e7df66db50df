"""Files of passwords for clients of the mirror, and the header that shows one."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import bcrypt

USER = "ann"
PASSWORD = "s3cret of hers"
WRONG = "guessed"


def bcrypt_line(user: str, password: str, *, cost: int = 4) -> str:
    """Return what ``htpasswd -B`` writes: bcrypt, by the name that Apache has for it."""
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()
    return f"{user}:{hashed.replace('$2b$', '$2y$', 1)}"


def write_htpasswd(path: Path, users: Mapping[str, str]) -> Path:
    """Write the file, all at once."""
    new = path.with_name(path.name + ".new")
    new.write_text("".join(f"{bcrypt_line(*one)}\n" for one in users.items()), encoding="utf-8")
    return new.rename(path)


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
