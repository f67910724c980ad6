"""Run a sweep here (`python sweep.py --help`) or on a cluster (`ray submit cluster.yaml sweep.py …`)."""

import sys

from ganatomy.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main())
