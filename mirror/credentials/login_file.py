"""What `mirror login` keeps: a file of mode 0600 in the cache folder, in the form of Docker's ``config.json``."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from typing import TYPE_CHECKING, Any, Final

from mirror.concurrency.folders import held, make_private
from mirror.credentials.docker_config import entry_of, read_document
from mirror.credentials.files import FileUnusable
from mirror.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.credentials.credential import Credential

PLACE: Final = "mirror login"


def keep(path: Path, upstream: str, credential: Credential) -> None:
    """Store a credential, in place of an earlier one of this upstream.

    Raises:
        StorageError: the file cannot be written, or holds something else.
    """
    with _changing(path) as auths:
        auths[upstream] = entry_of(credential)


def forget(path: Path, upstream: str) -> bool:
    """Remove a credential; return whether there was one.

    Raises:
        StorageError: as `keep`.
    """
    if not path.exists():
        return False
    with _changing(path) as auths:
        return auths.pop(upstream, None) is not None


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[str, Any]]:
    """Read the file, let it be changed, and replace it whole; two commands at once wait for each other."""
    try:
        make_private(path.parent)
        with held(path.parent) as folder:
            document = read_document(path) if path.exists() else {}
            yield _auths_in(document)
            _replace(path, json.dumps(document, indent=2) + "\n", owner=os.fstat(folder))
            os.fsync(folder)
    except FileUnusable as error:
        raise StorageError(f"{path} {error}; move it away and log in again") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def _auths_in(document: dict[str, Any]) -> dict[str, Any]:
    auths = document.setdefault("auths", {})
    if not isinstance(auths, dict):
        raise FileUnusable("holds something else than credentials")
    return auths


def _replace(path: Path, text: str, *, owner: os.stat_result) -> None:
    """Write beside and rename; what root writes belongs to whom the folder belongs to: the server may not be root."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask leaves of it
            if os.geteuid() == 0:
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
