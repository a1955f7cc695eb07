"""``python -m saec``."""

import sys

from saec.cli import main

if __name__ == "__main__":
    sys.exit(main())
