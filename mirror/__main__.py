"""``python -m mirror``."""

from __future__ import annotations

import sys

from mirror.cli.main import main

sys.exit(main())
