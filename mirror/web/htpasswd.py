"""Users and their passwords: a file as Apache's ``htpasswd -B`` writes it, taken up anew whenever it changes."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NoReturn

import bcrypt
import structlog

from mirror.concurrency.watched_files import WatchedFiles
from mirror.errors import ConfigError, quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mirror.config import AccessConfig

log = structlog.get_logger(__name__)

_BCRYPT: Final = re.compile(r"\$2[aby]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_COSTS: Final = range(4, 17)  # 16 takes seconds; each step doubles it
_PASSWORD_BYTES: Final = 72  # bcrypt knows no more of it
_LARGEST_FILE_BYTES: Final = 16 * 1024 * 1024
_OTHER_KINDS: Final = {"$apr1$": "Apache's MD5", "$1$": "MD5", "{SHA}": "SHA-1", "$5$": "SHA-256", "$6$": "SHA-512"}
_ANEW: Final = "write it anew with htpasswd -B"


class Users:
    """The users of one state of the file."""

    def __init__(self, hashes: Mapping[str, bytes]) -> None:
        """Take bcrypt's hash of each user's password, by name; at least one."""
        self._hashes = hashes
        self._any = tuple(hashes.values())

    def __len__(self) -> int:
        return len(self._hashes)

    def has(self, user: str, hashed: bytes) -> bool:
        """Tell whether this is still the user's hash."""
        return self._hashes.get(user) == hashed

    def verify(self, user: str, password: bytes) -> bytes | None:
        """Return the user's hash if it is the password's; takes long, and as long for a name that nobody has."""
        hashed = self._hashes.get(user)
        stand_in = self._any[int.from_bytes(blake2b(user.encode()).digest()) % len(self._any)]
        matches = bcrypt.checkpw(password[:_PASSWORD_BYTES], hashed or stand_in)
        return hashed if matches else None


class Htpasswd:
    """The file; ``users`` are those of its last state that could be used."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            ConfigError: it cannot be read, or has a line that cannot be used; the message says which, and no hash.
        """
        self._path = path
        self._watched = WatchedFiles([path])
        self.users = _read(path)

    @classmethod
    def of(cls, access: AccessConfig) -> Htpasswd | None:
        """Return what the configuration asks for.

        Raises:
            ConfigError: the file cannot be used.
        """
        return None if access.htpasswd is None else cls(access.htpasswd)

    async def follow(self) -> NoReturn:
        """Take it up whenever it has changed; what cannot be used is logged, and changes nothing."""
        await self._watched.follow(self._reload)

    def _reload(self) -> None:
        try:
            self.users = _read(self._path)
        except ConfigError as error:
            log.error("htpasswd.not_reloaded", error=str(error))
            return
        log.info("htpasswd.reloaded", path=str(self._path), users=len(self.users))


def _read(path: Path) -> Users:
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, separator, hashed = line.partition(":")
        if not separator or not user or user in hashes:
            reason = f"has {quote(user)} a second time" if user in hashes else "is not a user, a colon and a hash"
            raise _fault(f"{path}:{number}: {reason}")
        _check_hash(hashed.rstrip(), f"{path}:{number}: {quote(user)}")
        hashes[user] = hashed.rstrip().encode()
    if not hashes:
        raise _fault(f"{path}: has no users; add one with htpasswd -B")
    return Users(hashes)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise _fault(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise _fault(f"{path}: is larger than 16 MiB")
    try:
        return content.decode().split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _fault(f"{path}:{line}: is not UTF-8 text") from None  # the error holds the content


def _check_hash(hashed: str, where: str) -> None:
    match = _BCRYPT.fullmatch(hashed)
    if match is None:
        kind = next((name for prefix, name in _OTHER_KINDS.items() if hashed.startswith(prefix)), None)
        found = "is not hashed by bcrypt" if kind is None else f"is hashed by {kind}, not by bcrypt"
        raise _fault(f"{where} {found}; {_ANEW}")
    if int(match["cost"]) not in _COSTS:
        costs = f"{_COSTS.start} to {_COSTS.stop - 1}"
        raise _fault(f"{where} has a hash of cost {int(match['cost'])}, which is not {costs}; {_ANEW}")


def _fault(message: str) -> ConfigError:
    return ConfigError(f"access.htpasswd: {message}")
