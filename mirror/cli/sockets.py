"""Listening sockets, opened once by the supervising process and kept through the lives of its workers."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog

from mirror.concurrency.folders import held, make_private
from mirror.config import TcpAddress, UnixAddress
from mirror.errors import ControlFailed
from mirror.web.doors import Doors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from mirror.config import Address

log = structlog.get_logger(__name__)

_BACKLOG = 1024
_LONGEST_NAME_BYTES = 107  # of a Unix socket, in the kernel
_ANYBODYS = 0o777  # but for what the umask takes
_OWNERS = 0o600
_ANSWER_SECONDS = 1.0  # one that is too busy to be connected to in this time lives, too


class Listening:
    """One socket an address for each worker; the kernel spreads connections over those of one port (SO_REUSEPORT).

    Unix sockets are shared: any worker may answer there, the control socket too.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        workers: int,
        *,
        metrics: Address | None = None,
        control: Path | None = None,
        handed_over: Sequence[socket.socket] = (),
    ) -> None:
        """Open all; ``metrics`` is another address for who watches, ``control`` where the control socket is to be.

        Sockets that somebody has opened already take the place of all ``addresses``.

        Raises:
            OSError: an address is taken or cannot be had.
            ControlFailed: another server runs on the cache folder.
        """
        self._by_worker: list[list[socket.socket]] = [[] for _ in range(workers)]
        self._metrics: list[list[socket.socket]] = [[] for _ in range(workers)]
        self._control: list[socket.socket] = []
        self._names: list[_SocketName] = []
        self.addresses: list[Address] = []
        try:
            for address in () if handed_over else addresses:
                self.addresses.append(self._open(address, self._by_worker))
            for opened in handed_over:
                self.addresses.append(self._share(opened))
            if metrics is not None:
                self._open(metrics, self._metrics)
            if control is not None:
                self._open_control(control)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for name in self._names:
            name.remove()

    def of_worker(self, slot: int) -> Doors:
        """Return the sockets that one worker accepts from; no control socket where none could be made."""
        control = self._control[slot] if self._control else None
        return Doors(pulls=self._by_worker[slot], metrics=self._metrics[slot], control=control)

    def forget_all_but(self, slot: int) -> None:
        """Close, in a worker, what belongs to the others."""
        for groups in (self._by_worker, self._metrics):
            for other, sockets in enumerate(groups):
                if other != slot:
                    _close(sockets)
        _close([one for other, one in enumerate(self._control) if other != slot])

    def close(self) -> None:
        """Stop accepting, in this process."""
        for sockets in (*self._by_worker, *self._metrics):
            _close(sockets)
        _close(self._control)

    def _open_control(self, path: Path) -> None:
        """Open the control socket; a folder where none can be made (it is read-only) is served all the same."""
        try:
            make_private(path.parent)
            self._control = self._open_unix(path, _OWNERS)
        except _StillServedError as error:
            text = f"another mirror runs on the cache folder {path.parent}; stop it, or give this one its own"
            raise ControlFailed(f"{text} (cache.dir)") from error
        except OSError as error:
            log.warning("control.unavailable", error=str(error))

    def _open_unix(self, path: Path, mode: int) -> list[socket.socket]:
        with _unix(path, mode) as shared:
            self._names.append(_SocketName(path))
            return [shared.dup() for _ in self._by_worker]

    def _share(self, opened: socket.socket) -> Address:
        """Let each worker accept from one socket; return its address."""
        with opened:
            for sockets in self._by_worker:
                sockets.append(opened.dup())
            name = opened.getsockname()
        return UnixAddress(Path(name)) if isinstance(name, str) else TcpAddress(host=name[0], port=name[1])

    def _open(self, address: Address, by_worker: Sequence[list[socket.socket]]) -> Address:
        if isinstance(address, UnixAddress):
            for sockets, opened in zip(by_worker, self._open_unix(Path(address.path), _ANYBODYS), strict=True):
                sockets.append(opened)
            return address
        shares_port = len(by_worker) > 1
        if shares_port:
            _check_free(address)
        for sockets in by_worker:
            opened = _tcp(address, shares_port=shares_port)
            sockets.append(opened)
            address = TcpAddress(host=address.host, port=opened.getsockname()[1])  # where port 0 has led
        return address


def _tcp(address: TcpAddress, *, shares_port: bool, listens: bool = True) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((address.host, address.port))
        if listens:
            opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    return opened


def _check_free(address: TcpAddress) -> None:
    """Refuse a port that another program shares, which would be taken silently.

    Without listening: a client that got into this queue would be thrown out of it.
    """
    _tcp(address, shares_port=False, listens=False).close()


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Lend a name for a socket's path that fits into an address: the path itself, or one through its open folder."""
    if len(os.fsencode(path)) <= _LONGEST_NAME_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _SocketName:
    """The name that a socket of ours has in the file system."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._look()

    def remove(self) -> None:
        """Take it away, unless another server has put its own in its place since."""
        if self._look() == self._identity:
            self._path.unlink(missing_ok=True)

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _unix(path: Path, mode: int) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # held, since another server that starts now would take a socket that does not listen yet for stale
        with held(path.parent), short_name(path) as name:
            _remove_stale(path)
            os.fchmod(opened.fileno(), mode)  # Linux gives it to the name, so that this is never open to others
            opened.bind(name)
            opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise type(error)(error.errno, f"cannot listen on unix:{path}: {error.strerror}") from error
    return opened


class _StillServedError(OSError):
    """Somebody answers there."""


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that was killed; one that answers is left alone."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_name(path) as name:
        probe.settimeout(_ANSWER_SECONDS)
        if probe.connect_ex(name) != errno.ECONNREFUSED:
            raise _StillServedError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    path.unlink()


def _close(sockets: Sequence[socket.socket]) -> None:
    for one in sockets:
        one.close()
