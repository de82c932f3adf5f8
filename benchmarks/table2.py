"""Table 2 of the TLA paper, as `tla-ops bench table2` prints it; the options are the same."""

import sys

from tla_ops.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "table2", *sys.argv[1:]]))
