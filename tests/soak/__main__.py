"""``make soak``: prints what it does while it does it, and its figures at the end; exit code 1 if anything is wrong."""

from __future__ import annotations

import argparse
import random
import sys

from tests.soak.content import make_library
from tests.soak.soak import Plan, run_soak
from tests.support.process import RegistryProcess


def main() -> int:
    """Run."""
    options = _options()
    library = make_library()
    plan = Plan(seconds=options.minutes * 60, seed=options.seed, clients=options.clients, workers=options.workers)
    print(f"{len(library.images)} images, {library.total_bytes} bytes, bound {library.limit_bytes}; {plan}", flush=True)
    with RegistryProcess() as registry:
        library.publish(registry)
        report = run_soak(plan, library, registry, say=lambda line: print(line, flush=True))
    print(report.figures())
    for problem in report.problems():
        print(f"WRONG     {problem}")
    return 1 if report.problems() else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of clients and faults")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
