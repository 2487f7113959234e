"""`python -m sal360`, the same as the console script `sal360`."""

import sys

from sal360.cli import main

if __name__ == "__main__":
    sys.exit(main())
