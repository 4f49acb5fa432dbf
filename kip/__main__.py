"""The command `kip` where its script is not on the path: `python -m kip`."""

import sys

from kip.cli import main

if __name__ == "__main__":
    sys.exit(main())
