#!/usr/bin/python3
"""Random mount operations in three processes: tests/oracle/mounts_random.c.

    tests/nightly/mounts.py [--first SEED] [--count N] [--nomina PROGRAM] [--lockdown PROGRAM]

Run as root; how the worlds are compared: differential.py.
"""

import sys

from differential import main

if __name__ == "__main__":
    sys.exit(main("mounts_random", __doc__, 5000))
