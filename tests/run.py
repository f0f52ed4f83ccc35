#!/usr/bin/python3
"""The end-to-end suite: oracle comparisons, programs, abuse. Called by ./test; by hand:

    tests/run.py --nomina target/release/nomina [--lockdown | --container] [--patch-after N] [-k PATTERN]... [--list]
    tests/run.py --record        (as root: writes tests/oracle/expected from the host kernel)
"""

import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import harness
import oracle
import container

HERE = pathlib.Path(__file__).resolve().parent
CFLAGS = ["-O1", "-Wall", "-Wno-nonnull", "-Wno-stringop-overflow", "-Wno-stringop-overread", "-pthread"]


def compile_programs(out):
    """Every C program that is not there yet; a program that does not compile stops the suite."""
    jobs = [(f, out / "oracle" / f.stem, []) for f in sorted((HERE / "oracle").glob("*.c"))]
    jobs += [(f, out / "abuse" / f.stem, []) for f in sorted((HERE / "abuse").glob("*.c"))]
    show = HERE / "oracle/helpers/show.c"
    kinds = (("show", []), ("show_static", ["-static"]), ("show_static_pie", ["-static-pie"]), ("show_nopie", ["-no-pie"]))
    jobs += [(show, out / "helpers" / n, flags) for n, flags in kinds]
    jobs += [(HERE / "lockdown.c", out / "lockdown", [])]
    for _, target, _ in jobs:
        target.parent.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for problem in pool.map(compile_one, jobs):
            if problem:
                sys.exit(problem)


def compile_one(job):
    """Compiles one program, unless it is newer than its source and all headers; returns what went wrong, or None."""
    source, target, flags = job
    texts = [source, *HERE.glob("*/*.h")]
    if target.exists() and all(target.stat().st_mtime > t.stat().st_mtime for t in texts):
        return None
    r = subprocess.run(["gcc", *CFLAGS, *flags, "-o", target, source, "-lutil"], capture_output=True, text=True)
    if r.stderr and not r.returncode:
        print(r.stderr, file=sys.stderr)
    return f"{source}: does not compile\n{r.stderr}" if r.returncode else None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nomina", default=str(HERE.parent / "target/release/nomina"))
    p.add_argument("--lockdown", action="store_true", help="run every nomina under tests/lockdown.c")
    p.add_argument("--patch-after", metavar="N", help="give every nomina this option: 1 rewrites all call sites at once")
    p.add_argument("--container", action="store_true", help="run every nomina under a container engine's filter")
    p.add_argument("--work", help="directory for scratch files (default: a fresh one)")
    p.add_argument("--built", help="directory of the compiled C programs, for several runs (default: a fresh one)")
    p.add_argument("--fixtures", default="/var/tmp/nomina-fixtures", help="what tests/fixtures.sh prepared")
    p.add_argument("-k", action="append", default=[], metavar="PATTERN")
    p.add_argument("--again", action="store_true", help="leave out the long cases that one pass of ./test runs")
    p.add_argument("--jobs", type=int, default=(os.cpu_count() or 2) + 1, help="cases at a time: most of them also wait")
    p.add_argument("--list", action="store_true")
    p.add_argument("--record", action="store_true")
    p.add_argument("--json", help="write the counts and the names of failed cases")
    a = p.parse_args()

    # Everything is made below /var/tmp: /tmp is often a tmpfs, whose extended attributes and O_TMPFILE differ.
    work = pathlib.Path(a.work or tempfile.mkdtemp(prefix="nomina-e2e.", dir="/var/tmp"))
    work.mkdir(parents=True, exist_ok=True)
    work.chmod(0o755)
    built = pathlib.Path(a.built).resolve() if a.built else work / "built"
    s = harness.Settings
    s.nomina, s.work, s.fixtures, s.built = pathlib.Path(a.nomina).resolve(), work, pathlib.Path(a.fixtures), built
    try:
        oracle.register()
        sys.path.insert(0, str(HERE / "e2e"))
        for f in sorted((HERE / "e2e").glob("*.py")):
            __import__(f.stem)
        if a.list:
            print("\n".join(c.name for c in harness.CASES))
            return 0
        compile_programs(built)
        if a.record:
            return oracle.record()
        s.lockdown = [str(built / "lockdown")] if a.lockdown else []
        s.options = ["--patch-after", a.patch_after] if a.patch_after else []
        s.lockdown = [str(built / "lockdown")] if a.lockdown or a.container else []
        if a.container:
            container.compile_to(work / "container.bpf")
            s.lockdown += ["--filter", str(work / "container.bpf")]
        if not os.access(s.nomina, os.X_OK):
            sys.exit(f"{s.nomina}: no such program; build it first: cargo build --release")
        if os.geteuid() == 0:
            sys.exit("the suite shows what an ordinary user can do: run it as one (./test does)")
        passed, failed, known = harness.run_all(a.k, a.jobs, a.again, a.json)
        where = "under lockdown" if a.lockdown else "as in a container" if a.container else "plain"
        print(f"{where}: {passed} passed, {failed} failed, {known} known to fail")
        return 1 if failed or not passed else 0
    finally:
        if not a.work:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
