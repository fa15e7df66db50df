"""Asks the server that runs on a cache folder, through its control socket; where none runs, does it by itself.

By the standard library's HTTP client: one request on a Unix socket, whose answer is read line by line as it comes.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import os
import socket
from typing import TYPE_CHECKING

from mirror.cli.sockets import short_name
from mirror.control.assembly import of_folder
from mirror.errors import ControlFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mirror.config import Config
    from mirror.control.operations import Document

_GONE = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR})
_MISUSE_STATUS = 400


def _ignore(_facts: Document) -> None:
    pass


class Control:
    """What a command asks."""

    def __init__(self, config: Config) -> None:
        """Look for the server where the configuration has its cache."""
        self._config = config

    def ask(
        self, operation: str, arguments: Mapping[str, object], *, progress: Callable[[Document], None] = _ignore
    ) -> Document:
        """Return the result of an operation; ``progress`` gets the facts on the way.

        Raises:
            UsageError: the arguments make no sense.
            MirrorError: it failed.
        """
        connection = self._connect()
        if connection is None:
            return asyncio.run(self._run(operation, arguments, progress))
        return _ask(connection, operation, arguments, progress)

    def ask_server(
        self, operation: str, arguments: Mapping[str, object], *, progress: Callable[[Document], None] = _ignore
    ) -> Document:
        """Do the same where only a running server can.

        Raises:
            UsageError: the arguments make no sense.
            MirrorError: it failed, or no server runs.
        """
        connection = self._connect()
        if connection is None:
            raise ControlFailed(f"no mirror runs on the cache folder {self._config.cache.dir}; start `mirror serve`")
        return _ask(connection, operation, arguments, progress)

    def finds_server(self) -> bool:
        """Tell whether a server runs.

        Raises:
            ControlFailed: one may, and it cannot be reached.
        """
        connection = self._connect()
        if connection is not None:
            connection.close()
        return connection is not None

    def _connect(self) -> _Connection | None:
        """Return a connection to the running server, if one runs.

        Raises:
            ControlFailed: one may, and it cannot be reached.
        """
        connection = _Connection(self._config.control_socket)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            if error.errno in _GONE:
                return None
            text = f"cannot reach the mirror at {self._config.control_socket} as user {os.getuid()}: {error.strerror}"
            raise ControlFailed(f"{text}; run this as the user who runs the mirror") from error
        return connection

    async def _run(
        self, operation: str, arguments: Mapping[str, object], progress: Callable[[Document], None]
    ) -> Document:
        async def report(facts: Document) -> None:
            progress(facts)

        async with of_folder(self._config) as operations:
            return await operations.run(operation, arguments, report, by=f"user {os.getuid()}")


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with short_name(self._path) as name:
            self.sock.connect(name)


def _ask(
    connection: _Connection, operation: str, arguments: Mapping[str, object], progress: Callable[[Document], None]
) -> Document:
    try:
        connection.request("POST", f"/v1/{operation}", body=json.dumps(dict(arguments)))
        response = connection.getresponse()
        for line in response:
            document: Document = json.loads(line)
            if "progress" in document:
                progress(document["progress"])
            elif "result" in document:
                result: Document = document["result"]
                return result
            else:
                raise (UsageError if response.status == _MISUSE_STATUS else ControlFailed)(document["error"])
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise ControlFailed(f"the mirror broke off ({type(error).__name__}); its log may say why") from error
    finally:
        connection.close()
    raise ControlFailed("the mirror ended before it had answered")
