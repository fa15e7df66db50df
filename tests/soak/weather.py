"""The upstream's weather: faults at random, from a seed that is printed.

In *calm* weather transfers are cut, reset, go silent or slow, and ranges are ignored: everything that the mirror has
to hide from its clients. In a *storm* single requests are answered 429 or 5xx, hang, or get wrong bytes as well.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

from tests.soak.content import NAME, Library
from tests.support.faults import Action, Cut, Fault, FlipByte, Hang, IgnoreRange, Reset, Silence, Slow, Status
from tests.support.process import RegistryProcess

CALM_SECONDS = 12.0
STORM_SECONDS = 6.0
_PAUSE_SECONDS = 0.12
_SETTLING_SECONDS = 4.0  # after a storm an upstream may still be left alone, and what hangs is still waited for
_SPOILED_AT_ONCE = 6
_LIMITED_SHARE = 0.05  # of what is refused: each of these answers has the mirror leave the upstream alone for a second


@dataclass(slots=True)
class Weather:
    """Makes faults until it is stopped, and knows what they excuse."""

    registry: RegistryProcess
    library: Library
    seed: int
    has_storms: bool = True
    faults: int = 0
    _rough_until: float = 0.0
    _spoiled: dict[str, float] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def was_rough(self, since: float) -> bool:
        """Say whether the upstream has refused single requests at any time from ``since`` on."""
        return since < self._rough_until

    def was_spoiled(self, digest: str, asked_at: float) -> bool:
        """Say whether wrong bytes for a digest explain that its body ended short.

        Once for all who follow the same download, which may begin in a storm and be gone on with much later.
        """
        if digest not in self._spoiled:
            return False
        self._spoiled[digest] = min(self._spoiled[digest], time.monotonic() + _SETTLING_SECONDS)
        return asked_at < self._spoiled[digest]

    def stop(self) -> None:
        """End it; what is set and held is taken away."""
        self._stopped.set()

    def run(self) -> None:
        """Make weather until stopped."""
        choose = random.Random(self.seed)
        try:
            while not self._stopped.is_set():
                self._blow(choose, CALM_SECONDS, is_storm=False)
                if self.has_storms and not self._stopped.is_set():
                    self._blow(choose, STORM_SECONDS, is_storm=True)
        finally:
            self.registry.heal()

    def _blow(self, choose: random.Random, seconds: float, *, is_storm: bool) -> None:
        self.registry.heal()
        self.registry.reset_record()
        until = time.monotonic() + seconds
        if is_storm:
            self._rough_until = until + _SETTLING_SECONDS
            self._spoil(choose)
        while time.monotonic() < until and not self._stopped.wait(_PAUSE_SECONDS):
            actions = [self._hidden(choose)]
            if is_storm:
                actions.append(self._refusing(choose))
            for action in actions:
                self.registry.fail(_once(action))
            self.faults += len(actions)

    def _spoil(self, choose: random.Random) -> None:
        """Send wrong bytes for some layers, once each, when they are asked for next."""
        for _ in range(_SPOILED_AT_ONCE):
            layer = choose.choice(self.library.images[self.library.choose(choose)].layers)
            self._spoiled[layer.digest] = float("inf")
            self.registry.fail(Fault(action=FlipByte(position=choose.randrange(1000)), path=layer.digest, times=1))
            self.faults += 1

    @staticmethod
    def _hidden(choose: random.Random) -> Action:
        fraction = 0.01 + 0.98 * choose.random()
        actions: list[Action] = [
            Cut(fraction=fraction),
            Reset(fraction=fraction),
            Silence(fraction=fraction),
            Slow(bytes_per_second=1_000_000),
            IgnoreRange(),
        ]
        return choose.choice(actions)

    @staticmethod
    def _refusing(choose: random.Random) -> Action:
        if choose.random() < _LIMITED_SHARE:
            return Status(status=429, headers={"Retry-After": "1"})
        actions: list[Action] = [Status(status=500), Status(status=503), Hang()]
        return choose.choice(actions)


def _once(action: Action) -> Fault:
    """Let it happen to the next request that fits: what the mirror must hide concerns blobs, the rest everything."""
    is_for_all = isinstance(action, (Status, Hang))
    return Fault(action=action, kind=None if is_for_all else "blob", path=NAME, times=1)
