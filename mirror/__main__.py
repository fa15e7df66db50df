"""``python -m mirror``, and the program ``mirror``."""

from __future__ import annotations

import sys

from mirror.cli import heap


def main() -> int:
    """Run the command that the command line names; return the exit code."""
    with heap.importing():
        from mirror.cli.main import main as run  # noqa: PLC0415 - see `importing`
    return run()


if __name__ == "__main__":
    sys.exit(main())
