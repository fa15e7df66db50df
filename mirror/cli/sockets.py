"""Listening sockets, opened once by the supervising process and kept through the lives of its workers."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mirror.config import TcpAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from mirror.config import Address

_BACKLOG = 1024


class Listening:
    """One socket an address for each worker; the kernel spreads connections over those of one port (SO_REUSEPORT)."""

    def __init__(self, addresses: Sequence[Address], workers: int) -> None:
        """Open all.

        Raises:
            OSError: an address is taken or cannot be had.
        """
        self._by_worker: list[list[socket.socket]] = [[] for _ in range(workers)]
        self._unix_paths: list[Path] = []
        self.addresses: list[Address] = []
        try:
            for address in addresses:
                self.addresses.append(self._open(address))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for path in self._unix_paths:
            path.unlink(missing_ok=True)

    def of_worker(self, slot: int) -> Sequence[socket.socket]:
        """Return the sockets that one worker accepts from."""
        return self._by_worker[slot]

    def forget_all_but(self, slot: int) -> None:
        """Close, in a worker, what belongs to the others."""
        for other, sockets in enumerate(self._by_worker):
            if other != slot:
                _close(sockets)

    def close(self) -> None:
        """Stop accepting, in this process."""
        for sockets in self._by_worker:
            _close(sockets)

    def _open(self, address: Address) -> Address:
        if isinstance(address, UnixAddress):
            shared = _unix(Path(address.path))
            self._unix_paths.append(Path(address.path))
            for sockets in self._by_worker:
                sockets.append(shared.dup())
            shared.close()
            return address
        shares_port = len(self._by_worker) > 1
        if shares_port:
            _tcp(address, shares_port=False).close()  # a port that another program shares would be taken silently
        for sockets in self._by_worker:
            opened = _tcp(address, shares_port=shares_port)
            sockets.append(opened)
            address = TcpAddress(host=address.host, port=opened.getsockname()[1])  # where port 0 has led
        return address


def _tcp(address: TcpAddress, *, shares_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((address.host, address.port))
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    return opened


def _unix(path: Path) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        opened.bind(str(path))
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise OSError(error.errno, f"cannot listen on unix:{path}: {error.strerror}") from error
    return opened


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that was killed; one that answers is left alone."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()


def _close(sockets: Sequence[socket.socket]) -> None:
    for one in sockets:
        one.close()
