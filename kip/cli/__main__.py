"""`python -m kip.cli`, where the command `kip` is not on the path."""

import sys

from kip.cli import main

if __name__ == "__main__":
    sys.exit(main())
