"""Reading a password from a file, at the start and again whenever the file changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from mirror.config import values

JSON_KEY_USER: Final = "_json_key"
"""Who Google's registries are told to be when the password is a service account's key, which has many lines."""


class SecretUnusable(Exception):
    """A file that holds no password; ``str()`` continues the sentence that its setting begins, and shows no content."""


def read_password_file(path: Path, *, username: str) -> str:
    """Return the password in a file, without the line break at its end.

    Raises:
        SecretUnusable: it cannot be read, is empty, or holds more than one line and is not Google's JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SecretUnusable(f"cannot be read: {error.strerror}: {path}") from error
    except UnicodeDecodeError:
        raise SecretUnusable("is not UTF-8 text") from None  # the error holds the content
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SecretUnusable("names a file that is empty")
    try:
        return check_password(text, username=username)
    except values.Unfit:
        raise SecretUnusable("names something that is not one line of text") from None


def check_password(text: str, *, username: str) -> str:
    """Return a password that can be one.

    Raises:
        Unfit: it is not one line of text, and not the JSON object that ``_json_key`` is followed by.
    """
    if username == JSON_KEY_USER and _is_json_object(text):
        return text
    return values.LINE.read(text)


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
