#!/usr/bin/python3
"""stress-ng's stressors about processes and IPC, each alone, on the host and inside Nomina.

    tests/nightly/stress.py [--seconds N] [--nomina PROGRAM] [--lockdown PROGRAM] [-k STRESSOR]

Run as root or as an ordinary user; both worlds run as the ordinary user nomina-test, or as who calls. Prints for each the operations
per second in both and what --verify found; exit code 1 when it found something inside that it does not find on the host.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


def stressors():
    """The list of the suite's case."""
    text = (HERE.parent / "e2e/programs.py").read_text()
    return re.search(r'^STRESSORS = "(.*)"\.split', text, re.M).group(1).split()


def run(prefix, name, seconds):
    """Operations per second, and the complaints."""
    argv = [*prefix, "stress-ng", f"--{name}", "1", "--verify", "--metrics", "-t", str(seconds), "--temp-path", "/tmp"]
    try:
        r = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=seconds + 60, cwd="/", stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return 0.0, ["does not end"]
    lines = (r.stdout + r.stderr).splitlines()
    bad = [l.partition("] ")[2] for l in lines if re.search(r"\b(fail|error):", l)]
    if r.returncode:
        bad.append(f"exit code {r.returncode}")
    # stress-ng: metrc: [N] NAME  OPS  REAL  USER  SYS  OPS/S(real) ...
    row = [l.split("] ")[1].split() for l in lines if "metrc:" in l and f" {name} " in l]
    return float(row[0][5]) if row else 0.0, bad


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nomina", default=str(HERE.parents[1] / "target/release/nomina"))
    p.add_argument("--lockdown", help="the compiled tests/lockdown.c, to run Nomina under")
    p.add_argument("--user", default="nomina-test")
    p.add_argument("--seconds", type=int, default=10)
    p.add_argument("-k", action="append", default=[], metavar="STRESSOR")
    a = p.parse_args()
    worse = 0
    with tempfile.TemporaryDirectory(dir="/var/tmp") as stage:
        os.chmod(stage, 0o755)
        nomina = pathlib.Path(stage) / "nomina"
        shutil.copy(a.nomina, nomina)
        user = ["runuser", "-u", a.user, "--"] if os.geteuid() == 0 else []
        inside = [*user, *([a.lockdown] if a.lockdown else []), str(nomina), "run", "--"]
        print(f"{'stressor':10} {'native/s':>12} {'inside/s':>12}  ratio")
        for name in a.k or stressors():
            (host, host_bad), (ours, ours_bad) = run(user, name, a.seconds), run(inside, name, a.seconds)
            ratio = f"{host / ours:.2f}" if ours else "-"
            print(f"{name:10} {host:12.0f} {ours:12.0f}  {ratio}", flush=True)
            for who, found in (("native", host_bad), ("inside", ours_bad)):
                for text in found[:5]:
                    print(f"    {who}: {text}", flush=True)
            worse += bool(ours_bad) and not host_bad
    print(f"{worse} stressors complain only inside")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
