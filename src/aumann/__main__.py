"""`python -m aumann`: the command line."""

import sys

from aumann.cli import main

if __name__ == "__main__":
    sys.exit(main())
