"""`python -m aumann`: the command line."""

import sys

from aumann.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
