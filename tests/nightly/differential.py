"""Random sequences of operations on the host kernel and inside Nomina, compared operation by operation.

The sequences are those of a program in tests/oracle that has random.h. Natively root works in namespaces of its own; Nomina runs as the
ordinary user nomina-test. Seeds that differ are printed with a shortest sequence that still does; exit code 1.
"""

import argparse
import difflib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# Sequences of one run of the program.
BATCH = 50


class Worlds:
    def __init__(self, name, a, stage):
        self.program = stage / name
        source = HERE.parent / f"oracle/{name}.c"
        subprocess.run(["gcc", "-O1", "-Wall", "-Wno-nonnull", "-o", self.program, source], check=True)
        nomina = stage / "nomina"
        shutil.copy(a.nomina, nomina)
        self.inside = ["runuser", "-u", a.user, "--"] + ([a.lockdown] if a.lockdown else [])
        self.inside += [str(nomina), "run", "--bind", f"{stage}:{stage}:ro", "--"]

    def run(self, inside, args, script=None):
        argv = (self.inside if inside else []) + [str(self.program), *map(str, args)]
        r = subprocess.run(argv, input=script or "", capture_output=True, text=True, timeout=600, cwd="/")
        return r.stdout + r.stderr

    def both(self, args, script=None):
        return self.run(False, args, script), self.run(True, args, script)

    def differs(self, operations):
        native, inside = self.both(["-"], "\n".join(operations) + "\n")
        return native != inside

    def shrink(self, operations):
        step = max(1, len(operations) // 2)
        while step:
            at = 0
            while at < len(operations):
                shorter = operations[:at] + operations[at + step:]
                if shorter and self.differs(shorter):
                    operations = shorter
                else:
                    at += step
            step //= 2
        return operations

    def explain(self, seed):
        operations = self.run(False, ["-g", seed]).splitlines()
        if not self.differs(operations):
            print(f"seed {seed}: differs only among others")
            return
        operations = self.shrink(operations)
        native, inside = self.both(["-"], "\n".join(operations) + "\n")
        print(f"seed {seed}, shortest sequence:", *operations, sep="\n    ")
        print(*difflib.unified_diff(native.splitlines(), inside.splitlines(), "kernel", "nomina", lineterm="", n=2), sep="\n")


def main(name, description, count):
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nomina", default=str(HERE.parents[1] / "target/release/nomina"))
    p.add_argument("--lockdown", help="the compiled tests/lockdown.c, to run Nomina under")
    p.add_argument("--user", default="nomina-test")
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--count", type=int, default=count)
    p.add_argument("--show", type=int, default=5, help="most differing seeds to shrink")
    a = p.parse_args()
    if os.geteuid() != 0:
        sys.exit("natively only root may make namespaces: run it as root")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as stage:
        os.chmod(stage, 0o755)
        worlds = Worlds(name, a, pathlib.Path(stage))
        bad = []
        for first in range(a.first, a.first + a.count, BATCH):
            native, inside = worlds.both([first, min(BATCH, a.first + a.count - first)])
            lines = zip(native.splitlines(), inside.splitlines() + [""] * BATCH)
            differ = [int(n.partition(":")[0]) for n, i in lines if n != i]
            for seed in differ[: max(0, a.show - len(bad))]:
                worlds.explain(seed)
            bad += differ
        print(f"seeds {a.first} to {a.first + a.count - 1}: {a.count - len(bad)} equal, {len(bad)} differ", *bad[:50])
    return 1 if bad else 0

