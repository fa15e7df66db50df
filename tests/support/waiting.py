"""Waiting for what another process does, which gives no event to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable

_ATTEMPT_SECONDS = 0.01


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float = 10.0) -> None:
    """Look again and again.

    Raises:
        TimeoutError: the condition did not hold in time.
    """
    pause = threading.Event()
    for _ in range(int(timeout_seconds / _ATTEMPT_SECONDS)):
        if condition():
            return
        pause.wait(_ATTEMPT_SECONDS)
    raise TimeoutError("the condition did not hold in time")
