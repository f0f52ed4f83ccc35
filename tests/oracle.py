"""Oracle cases: one program, run on the host kernel and inside Nomina, must print the same and end the same.

The first line of each tests/oracle/*.c says how it is run (see oracle.h). Programs for root cannot run natively in a
suite of an ordinary user: their native output is kept in tests/oracle/expected/, and `run.py --record` as root writes
it anew; ./test as root checks that the kept files still are what the kernel of this machine says.
"""

import difflib
import os
import pathlib
import re
import shutil
import subprocess

import harness
from harness import HERE, Failure, Settings

EXPECTED = HERE / "oracle" / "expected"
# Written through as well as copied on write: programs about files see two different file systems.
BOTH_WAYS = ("files_", "unix_", "fifo_", "exec")
# But not these: a host directory cannot hold foreign owners, and takes no set-id bits from a guest, by policy.
# e2e/basic.py shows that policy (written_through_files_take_no_set_id_bits_and_no_foreign_owners).
COPIED_ONLY = ("files_owner", "files_attr", "files_open")
# The POSIX behaviour of every writable file system: copied on write, written through, and in memory. Written through only as
# the invoking user, for the reason above.
EVERY_FILE_SYSTEM = "posix_"


def modes(source):
    m = re.match(r"/\* oracle: ([a-z ]+)", source.read_text())
    if not m:
        raise SystemExit(f"{source}: the first line must say 'oracle: user', 'oracle: root' or both")
    return m.group(1).split()


def through_a_shell(name):
    """The shell is there so that the program is not PID 1 inside, which has rules of its own."""
    return ["sh", "-c", f"./{name}; exit $?"]


def prepare(directory, name):
    """The program and its helpers in its own directory, so that it needs nothing else."""
    program = directory / name
    shutil.copy(Settings.built / "oracle" / name, program)
    for h in (Settings.built / "helpers").iterdir():
        shutil.copy(h, directory)
    return program


def in_memory(name, ctx, opts):
    """The program on a tmpfs of its own: it is copied there, as no directory can be shown below one."""
    copy = f"cp ./{name} /scratch/; cd /scratch; ./{name}; exit $?"
    return ctx.run(["sh", "-c", copy], ["--tmpfs", "/scratch", *opts], cwd=ctx.dir)


def compare(want, got, who):
    if (want.out, want.code) == (got.out, got.code):
        return
    diff = list(difflib.unified_diff(want.lines(), got.lines(), "kernel", "nomina", lineterm="", n=1))
    if want.code != got.code:
        diff.append(f"exit code: kernel {want.code}, nomina {got.code}")
    if got.err:
        diff += ["stderr of nomina:", *got.err.splitlines()[-8:]]
    raise Failure(f"differs from {who}:\n" + "\n".join(diff))


def as_user(name, opts, tmpfs=False):
    def run(ctx):
        outside, inside = ctx.dir / "native", ctx.dir / "inside"
        for d in (outside, inside):
            d.mkdir()
            prepare(d, name)
        want = ctx.native(through_a_shell(name), cwd=outside)
        ids = ["--user", f"{os.getuid()}:{os.getgid()}"]
        if tmpfs:
            prepare(ctx.dir, name)
            compare(want, in_memory(name, ctx, ids), "the host kernel")
            return
        compare(want, ctx.run(through_a_shell(name), ids + opts, cwd=inside), "the host kernel")

    return run


def as_root(name, opts, tmpfs=False):
    def run(ctx):
        prepare(ctx.dir, name)
        kept = (EXPECTED / f"{name}.out").read_text()
        body, _, code = kept.rpartition("exit code ")
        want = harness.Result([name], int(code), body, "")
        got = in_memory(name, ctx, []) if tmpfs else ctx.run(through_a_shell(name), opts)
        compare(want, got, "what root saw on the host kernel")

    return run


def sources():
    return sorted((HERE / "oracle").glob("*.c"))


def register():
    for source in sources():
        name = source.stem
        ways = {"": []}
        if name.startswith(BOTH_WAYS) and name not in COPIED_ONLY:
            ways["_written_through"] = ["--rw", "."]
        for mode in modes(source):
            every = dict(ways)
            if name.startswith(EVERY_FILE_SYSTEM):
                every["_in_memory"] = None
                if mode == "user":
                    every["_written_through"] = ["--rw", "."]
            for suffix, opts in every.items():
                run = (as_user if mode == "user" else as_root)(name, opts, tmpfs=opts is None)
                # Timing is part of what these programs show; they run one at a time.
                harness.case(timeout=90, alone=name.startswith("signal_restart"), name=f"oracle.{name}_{mode}{suffix}")(run)


def record():
    """As root: what the host kernel says to root, for the expected directory. Prints what changed."""
    if os.geteuid() != 0:
        raise SystemExit("--record must run as root: the kept outputs are what the kernel shows to root")
    EXPECTED.mkdir(exist_ok=True)
    changed = 0
    for source in sources():
        if "root" not in modes(source):
            continue
        d = pathlib.Path(Settings.work) / source.stem
        d.mkdir()
        prepare(d, source.stem)
        r = subprocess.run(through_a_shell(source.stem), cwd=d, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           errors="replace", timeout=120, start_new_session=True)
        code = r.returncode if r.returncode >= 0 else 128 - r.returncode
        text = f"{r.stdout}exit code {code}\n"
        target = EXPECTED / f"{source.stem}.out"
        if not target.exists() or target.read_text() != text:
            changed += 1
            old = target.read_text() if target.exists() else ""
            print("\n".join(difflib.unified_diff(old.splitlines(), text.splitlines(), str(target), "this kernel", lineterm="", n=1)))
            target.write_text(text)
    print(f"{changed} of the kept outputs changed")
    return 1 if changed else 0
