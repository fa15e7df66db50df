"""Worker processes under one supervising process: forked, restarted when they die, drained on SIGTERM.

The supervisor holds the listening sockets. A connection that waits in the queue of a worker that died is answered by
the one that takes its place.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

log = structlog.get_logger(__name__)

_FAST_DEATH_SECONDS = 1.0  # a worker that dies sooner is restarted with a pause: it may die of its configuration
_PAUSE_SECONDS = 1.0
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_HANDLED = (*_STOPPING, signal.SIGHUP)


def is_alive(process: int) -> bool:
    """Say whether a process runs, whoever's it is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class WorkerProcesses:
    """Keeps ``count`` forked processes running ``work(slot)`` until it is told to stop."""

    def __init__(
        self,
        count: int,
        work: Callable[[int], None],
        *,
        grace_seconds: float,
        stopping: Callable[[], None],
        reloading: Callable[[], bool],
        died: Callable[[int, int], None],
    ) -> None:
        """Prepare.

        Args:
            count: how many processes.
            work: runs in each, with its slot from 0 and with SIGHUP blocked; returns after SIGTERM.
            grace_seconds: how long a worker may take to end before it is killed.
            stopping: called once in the supervisor when SIGTERM has come, before it is passed on.
            reloading: called in the supervisor when SIGHUP has come; returns whether it is to be passed on.
            died: called in the supervisor with slot and process number of each worker that ended.
        """
        self._count = count
        self._work = work
        self._grace_seconds = grace_seconds
        self._stopping = stopping
        self._reloading = reloading
        self._died = died
        self._slots: dict[int, tuple[int, float]] = {}
        self._is_stopping = False
        self._alive = os.pipe()

    def run(self) -> int:
        """Start all, restart those that die, end when told to; return the exit code."""
        for signum in _STOPPING:
            signal.signal(signum, self._stop)
        signal.signal(signal.SIGHUP, self._reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        for slot in range(self._count):
            self._start(slot)
        while not self._is_stopping:
            self._restart_one()
        return self._drain()

    def _start(self, slot: int) -> None:
        # a signal in between must not reach a child that still has the supervisor's handlers
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        process = os.fork()
        if process == 0:
            self._run_child(slot)
        self._slots[process] = (slot, time.monotonic())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def _run_child(self, slot: int) -> None:
        code = 1
        try:
            self._die_with_supervisor()
            for signum in _STOPPING:
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)  # SIGHUP waits until ``work`` can take it
            self._work(slot)
            code = 0
        except KeyboardInterrupt:
            code = 0
        except BaseException:
            log.exception("worker.failed", slot=slot)
        finally:
            os._exit(code)  # nothing of the supervisor's may run twice

    def _die_with_supervisor(self) -> None:
        """End at once when the supervisor is killed: a worker left alone would keep the port from the next start."""
        os.close(self._alive[1])

        def wait() -> None:
            os.read(self._alive[0], 1)  # nothing is ever written: it ends when the supervisor does
            os._exit(1)

        threading.Thread(target=wait, name="supervisor watch", daemon=True).start()

    def _restart_one(self) -> None:
        try:
            process, status = os.waitpid(-1, 0)
        except InterruptedError:
            return
        slot, started = self._slots.pop(process)
        self._died(slot, process)
        if self._is_stopping:
            return
        log.error("worker.died", slot=slot, exit_code=os.waitstatus_to_exitcode(status))
        if time.monotonic() - started < _FAST_DEATH_SECONDS:
            time.sleep(_PAUSE_SECONDS)
        if not self._is_stopping:
            self._start(slot)

    def _stop(self, signum: int, _frame: FrameType | None) -> None:
        if not self._is_stopping:
            log.info("server.stopping", signal=signal.Signals(signum).name)
            self._is_stopping = True
            self._stopping()
            self._signal_all(signal.SIGTERM)

    def _reload(self, _signum: int, _frame: FrameType | None) -> None:
        if not self._is_stopping and self._reloading():
            self._signal_all(signal.SIGHUP)

    def _signal_all(self, signum: signal.Signals) -> None:
        for process in self._slots:
            os.kill(process, signum)

    def _drain(self) -> int:
        deadline = time.monotonic() + self._grace_seconds
        failures = 0
        while self._slots:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process:
                slot, _ = self._slots.pop(process)
                self._died(slot, process)
                failures += os.waitstatus_to_exitcode(status) not in {0, -signal.SIGTERM}
            elif time.monotonic() > deadline:
                self._signal_all(signal.SIGKILL)
                deadline = float("inf")
            else:
                time.sleep(0.02)
        return 1 if failures else 0
