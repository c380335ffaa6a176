"""`python -m greater_fast`: the command line without its script."""

import sys

from greater_fast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
