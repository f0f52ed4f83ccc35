#!/usr/bin/python3
"""Random forks, exits, namespaces, waits and signals: tests/oracle/tasks_random.c.

    tests/nightly/tasks.py [--first SEED] [--count N] [--nomina PROGRAM] [--lockdown PROGRAM]

Run as root; how the worlds are compared: differential.py.
"""

import sys

from differential import main

if __name__ == "__main__":
    sys.exit(main("tasks_random", __doc__, 2000))
