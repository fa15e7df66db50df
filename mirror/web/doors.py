"""The sockets that a process accepts from."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Listening sockets: for pulls, for who watches where that is another address, and the control socket."""

    pulls: Sequence[socket.socket]
    metrics: Sequence[socket.socket] = ()
    control: socket.socket | None = None

    @contextmanager
    def duplicated(self) -> Iterator[Doors]:
        """Return others of the same queues of connections, which may be closed without closing these."""
        with ExitStack() as stack:

            def duplicate(one: socket.socket) -> socket.socket:
                one.settimeout(0)  # a duplicate takes over the mode, and gives it to all there are
                return stack.enter_context(one.dup())

            yield Doors(
                pulls=[duplicate(one) for one in self.pulls],
                metrics=[duplicate(one) for one in self.metrics],
                control=None if self.control is None else duplicate(self.control),
            )

    def close(self) -> None:
        """Accept nothing more by these; what has come and waits is for other duplicates, if there are any."""
        for one in (*self.pulls, *self.metrics, *([] if self.control is None else [self.control])):
            one.close()
