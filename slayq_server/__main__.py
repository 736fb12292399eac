"""`python -m slayq_server`: the same as the program `slayq-server`."""

import sys

from slayq_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
