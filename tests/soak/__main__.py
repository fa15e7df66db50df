"""``make soak`` and ``make kills``: print what they do, and figures at the end; exit code 1 if anything is wrong."""

from __future__ import annotations

import argparse
import random
import sys

from tests.soak.content import Library, make_library
from tests.soak.kills import Kills, run_kills
from tests.soak.soak import Plan, Report, run_soak
from tests.support.process import RegistryProcess

_SCALE_FOR_KILLS = 0.3  # all that is stored is hashed after each


def main() -> int:
    """Run."""
    options = _options()
    library = make_library(scale=1.0 if options.kills is None else _SCALE_FOR_KILLS)
    _say(f"{len(library.images)} images of {library.total_bytes} bytes, bound {library.limit_bytes}: {options}")
    with RegistryProcess() as registry:
        library.publish(registry)
        report = _run(options, library, registry)
    _say(report.figures())
    for problem in report.problems():
        _say(f"WRONG     {problem}")
    return 1 if report.problems() else 0


def _run(options: argparse.Namespace, library: Library, registry: RegistryProcess) -> Report | Kills:
    if options.kills is not None:
        return run_kills(options.kills, options.seed, library, registry, say=_say)
    plan = Plan(seconds=options.minutes * 60, seed=options.seed, clients=options.clients, workers=options.workers)
    return run_soak(plan, library, registry, say=_say)


def _say(text: str) -> None:
    print(text, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of clients and faults")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, metavar="N", help="kill it so often instead")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
