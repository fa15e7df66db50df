"""The commands' operations over TCP, for who shows the admin token: ``POST /admin/v1/NAME``."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from mirror.credentials.files import FileUnusable, WatchedFile, read_text
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.config import AccessConfig
    from mirror.web.clients import Client
    from mirror.web.control import ControlHandler

ADMIN_PREFIX: Final = "/admin/v1/"
_SHORTEST_CHARACTERS = 16
_SCHEME = "bearer"


class AdminToken:
    """What the file holds now; it is looked at whenever somebody shows a token."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: it holds no token.
        """
        try:
            _read(path)
        except FileUnusable as error:
            raise ConfigError(f"access.admin_token_file: {path} {error}") from error
        self._file = WatchedFile(path, _read)

    @classmethod
    def of(cls, access: AccessConfig) -> Self | None:
        """Return what the configuration asks for; None: nothing can be changed over TCP.

        Raises:
            ConfigError: the file holds no token.
        """
        return None if access.admin_token_file is None else cls(access.admin_token_file)

    @classmethod
    def check(cls, access: AccessConfig) -> None:
        """Say whether the configured file can be used.

        Raises:
            ConfigError: it holds no token.
        """
        _ = cls.of(access)

    async def is_shown_by(self, authorization: str) -> bool:
        """Say whether a header's value holds the token."""
        await asyncio.to_thread(self._file.poll)
        scheme, _, shown = authorization.partition(" ")
        expected = self._file.content
        digest = hashlib.sha256(shown.strip().encode(errors="surrogateescape")).digest()
        return expected is not None and scheme.lower() == _SCHEME and hmac.compare_digest(digest, expected)


def _read(path: Path) -> bytes:
    """Return the digest of a file's token, so that the token itself is held nowhere."""
    token = read_text(path).strip()
    if len(token) < _SHORTEST_CHARACTERS or any(one.isspace() for one in token):
        raise FileUnusable(f"does not hold one line of {_SHORTEST_CHARACTERS} characters or more")
    return hashlib.sha256(token.encode()).digest()


class AdminHandler:
    """Lets those in who show the token."""

    def __init__(self, token: AdminToken, control: ControlHandler) -> None:
        """Join the parts."""
        self._token = token
        self._control = control

    @classmethod
    def of(cls, access: AccessConfig, control: ControlHandler) -> Self | None:
        """Return what the configuration asks for; None: nothing can be changed over TCP.

        Raises:
            ConfigError: the file holds no token.
        """
        token = AdminToken.of(access)
        return None if token is None else cls(token, control)

    async def answer(self, request: web.BaseRequest, client: Client) -> web.StreamResponse:
        """Do what is asked for; 401 without the token."""
        if not await self._token.is_shown_by(request.headers.get("Authorization", "")):
            text = '{"error": "this needs the admin token: Authorization: Bearer TOKEN"}\n'
            headers = {"WWW-Authenticate": 'Bearer realm="mirror"'}
            return web.Response(status=401, text=text, content_type="application/x-ndjson", headers=headers)
        return await self._control.answer(request, ADMIN_PREFIX, by=f"client {client.address}")
