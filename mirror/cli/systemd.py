"""What systemd hands over and wants to know: sockets that it has opened, and when the mirror is ready.

Sources: sd_listen_fds(3) and sd_notify(3) of systemd 252. Without systemd nothing is found, and nobody is told.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

_FIRST = 3  # SD_LISTEN_FDS_START


def take_sockets(environ: MutableMapping[str, str]) -> Sequence[socket.socket]:
    """Return the listening sockets that were handed over to this process, and tell no child of them."""
    process, number = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not number.isdecimal():
        return []
    sockets = [socket.socket(fileno=_FIRST + index) for index in range(int(number))]
    for one in sockets:
        one.set_inheritable(False)
    return sockets


def say_ready() -> None:
    """Say that requests are answered, for the first time or by another configuration."""
    _notify("READY=1")


def say_reloading() -> None:
    """Say that another configuration is being taken up; `say_ready` follows, whether it could be or not."""
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def say_stopping() -> None:
    """Say that transfers are ending."""
    _notify("STOPPING=1")


def _notify(text: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked, suppress(OSError):
        asked.connect(address)
        asked.sendall(text.encode())
