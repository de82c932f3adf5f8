"""`python -m tla_ops` is `tla-ops`."""

import sys

from tla_ops.cli import main

if __name__ == "__main__":
    sys.exit(main())
