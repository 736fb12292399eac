"""`python -m slayq` is the command `slayq`."""

from __future__ import annotations

import sys

from slayq.cli import main

if __name__ == "__main__":
    sys.exit(main())
