"""How far things have come: bars on a terminal, by tqdm, which is imported for them only; nothing anywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_STEP = 1024


class Progress:
    """Bars on standard error, where that is a terminal; they go when the block ends."""

    def __init__(self) -> None:
        """Prepare; nothing is shown yet."""
        self._is_shown = sys.stderr.isatty()
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def counter(self, title: str, total_bytes: int | None) -> Callable[[int], None]:
        """Show one bar; return what moves it on by so many bytes."""
        if not self._is_shown:
            return lambda _: None
        bar = self._bars[title] = _bar(title, total_bytes)
        moved: Callable[[int], None] = bar.update
        return moved

    def move(self, title: str, done_bytes: int, total_bytes: int) -> None:
        """Move the bar of this title; it is shown from the first time on, until all is done."""
        if done_bytes >= total_bytes:
            if title in self._bars:
                self._bars.pop(title).close()
        elif self._is_shown:
            if title not in self._bars:
                self._bars[title] = _bar(title, total_bytes)
            self._bars[title].update(done_bytes - self._bars[title].n)

    def say(self, line: str) -> None:
        """Print a line, above the bars where they are on the same terminal."""
        if self._is_shown and sys.stdout.isatty():
            _tqdm().write(line)
        else:
            print(line, flush=True)


def _bar(title: str, total_bytes: int | None) -> Any:  # noqa: ANN401 - tqdm has no types
    settings = {"unit": "B", "unit_scale": True, "unit_divisor": _STEP, "dynamic_ncols": True}
    return _tqdm()(desc=title, total=total_bytes, leave=False, file=sys.stderr, **settings)


def _tqdm() -> Any:  # noqa: ANN401 - it has no types
    from tqdm import tqdm  # noqa: PLC0415 - only terminals need it

    return tqdm
