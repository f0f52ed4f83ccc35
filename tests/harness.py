"""Cases, sandboxes and assertions for the end-to-end suite.

A case is a function of one argument, a `Ctx`: an empty directory of its own, and ways to run commands natively and
inside Nomina. It passes by returning and fails by raising; there is no third outcome, so nothing is skipped silently.
"""

import concurrent.futures
import dataclasses
import fnmatch
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

CASES = []
HERE = pathlib.Path(__file__).resolve().parent


@dataclasses.dataclass
class Case:
    name: str
    run: object
    timeout: float
    alone: bool
    once: bool


def case(timeout=60, alone=False, once=False, name=None):
    """Registers a function as a case; its name is the module's and the function's, its docstring says what holds.

    `alone` keeps other cases away, for those that load the machine or measure time. `once` is for those that take long:
    of the passes of ./test only the one under lockdown has them.
    """

    def register(f):
        CASES.append(Case(name or f"{f.__module__.split('.')[-1]}.{f.__name__}", f, timeout, alone, once))
        return f

    return register


class Failure(Exception):
    """A case's expectation that did not hold."""


@dataclasses.dataclass
class Result:
    """What a finished command printed and returned (128+n when signal n ended it)."""

    argv: list
    code: int
    out: str
    err: str

    def ok(self, code=0):
        if self.code != code:
            raise Failure(f"exit code {self.code}, expected {code}: {self.describe()}")
        return self

    def has(self, *texts):
        for t in texts:
            if t not in self.out:
                raise Failure(f"no {t!r} in the output: {self.describe()}")
        return self

    def lacks(self, *texts):
        for t in texts:
            if t in self.out or t in self.err:
                raise Failure(f"{t!r} in the output: {self.describe()}")
        return self

    def lines(self):
        return self.out.splitlines()

    def describe(self):
        shown = " ".join(str(a) for a in self.argv)
        return f"\n  $ {shown[:600]}\n  code {self.code}\n  stdout: {clip(self.out)}\n  stderr: {clip(self.err)}"


def clip(text, lines=30):
    """The last lines of an output, indented."""
    ls = text.rstrip("\n").split("\n")
    if len(ls) > lines:
        ls = [f"... {len(ls) - lines} lines"] + ls[-lines:]
    return "\n    ".join(l[:400] for l in ls)


def equal(got, want, what=""):
    if got != want:
        raise Failure(f"{what}: got {got!r}, expected {want!r}")


def check(condition, message):
    if not condition:
        raise Failure(message)


class Settings:
    """Filled by run.py from its command line."""

    nomina = None
    lockdown = None  # prefix argv of every nomina, or []
    options = []  # options of every `nomina run`
    work = None  # directory for everything the suite makes
    fixtures = None  # directory prepared by tests/fixtures.sh
    built = None  # directory of compiled C programs


class Ctx:
    """One running case."""

    def __init__(self, name, deadline):
        self.name = name
        self.deadline = deadline
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=name.replace("/", "_") + ".", dir=Settings.work))
        self.fixtures = Settings.fixtures
        self.children = []

    # Running

    def left(self, timeout=None):
        return max(1.0, min(timeout or 1e9, self.deadline - time.monotonic()))

    def argv(self, command, opts=()):
        return [*Settings.lockdown, str(Settings.nomina), "run", *Settings.options, *map(str, opts), "--", *map(str, command)]

    def spawn(self, argv, **kw):
        """A command in a session of its own, ended with the case."""
        kw.setdefault("stdin", subprocess.DEVNULL)
        kw.setdefault("stdout", subprocess.PIPE)
        kw.setdefault("stderr", subprocess.PIPE)
        kw.setdefault("cwd", self.dir)
        p = subprocess.Popen([str(a) for a in argv], start_new_session=True, **kw)
        self.children.append(p)
        return p

    def native(self, argv, input=None, timeout=None, **kw):
        if input is not None:
            kw["stdin"] = subprocess.PIPE
            input = input.encode() if isinstance(input, str) else input
        p = self.spawn(argv, **kw)
        try:
            out, err = p.communicate(input, timeout=self.left(timeout))
        except subprocess.TimeoutExpired:
            end(p)
            out, err = p.communicate()
            r = Result(argv, -999, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace"))
            raise Failure(f"timed out: {r.describe()}") from None
        code = p.returncode if p.returncode >= 0 else 128 - p.returncode
        return Result(argv, code, (out or b"").decode(errors="replace"), (err or b"").decode(errors="replace"))

    def run(self, command, opts=(), **kw):
        """A command inside Nomina."""
        return self.native(self.argv(command, opts), **kw)

    def sh(self, script, opts=(), shell="bash", **kw):
        """A shell script inside Nomina."""
        return self.run([shell, "-c", script], opts, **kw)

    def write(self, name, text, mode=0o644):
        p = self.dir / name
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text(text)
        p.chmod(mode)
        return p

    def close(self):
        for p in self.children:
            end(p)
        # Directories whose mode was taken away by a test cannot be removed otherwise.
        subprocess.run(["chmod", "-R", "u+rwX", str(self.dir)], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def end(p):
    """Kills a command's whole session's first group and waits for the command itself."""
    if p.poll() is None:
        try:
            os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            p.wait(5)
        except subprocess.TimeoutExpired:
            pass
    for f in (p.stdin, p.stdout, p.stderr):
        if f and not f.closed and p.poll() is not None:
            try:
                f.close()
            except (OSError, ValueError):
                pass


def wait_until(condition, timeout=10, every=0.05, what="condition"):
    """Polls until the condition is true and returns its value."""
    limit = time.monotonic() + timeout
    while True:
        v = condition()
        if v:
            return v
        if time.monotonic() > limit:
            raise Failure(f"{what}: not within {timeout} s")
        time.sleep(every)


def processes_with(token):
    """Host processes whose command line or environment holds the token, apart from ourselves."""
    found = []
    for d in pathlib.Path("/proc").iterdir():
        if not d.name.isdigit() or int(d.name) == os.getpid():
            continue
        try:
            text = (d / "cmdline").read_bytes() + b"\0" + (d / "environ").read_bytes()
        except OSError:
            try:
                text = (d / "cmdline").read_bytes()
            except OSError:
                continue
        if token.encode() in text:
            found.append(int(d.name))
    return found


def descendants(pid):
    """All host processes below a process, itself first."""
    parents = {}
    for d in pathlib.Path("/proc").iterdir():
        if d.name.isdigit():
            try:
                stat = (d / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(d.name))
    out, todo = [], [pid]
    while todo:
        p = todo.pop()
        out.append(p)
        todo += parents.get(p, [])
    return out


def alive(pid):
    """Whether a host process is there and not a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# Groups whose cases depend on how fast others of the machine let them be: one more try, and the first failure is shown.
SECOND_TRY = ("terminal.", "lifecycle.")


def run_one(c):
    c, problem, seconds = try_one(c)
    if problem and c.name.startswith(SECOND_TRY):
        print(f"once more: {c.name}\n  " + clip(problem, 40).replace("\n", "\n  "), flush=True)
        return try_one(c)
    return c, problem, seconds


def try_one(c):
    start = time.monotonic()
    ctx = Ctx(c.name, start + c.timeout)
    problem = None
    try:
        c.run(ctx)
    except Failure as e:
        problem = str(e)
    except Exception:  # a broken case is a failed case
        problem = traceback.format_exc()
    finally:
        ctx.close()
    return c, problem, time.monotonic() - start


def known_failures():
    """Cases that are known to fail, with the reason: tests/known-failures.txt, one `name: reason` a line."""
    path = pathlib.Path(__file__).resolve().parent / "known-failures.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(l.split(": ", 1) for l in lines if l and not l.startswith("#"))


def run_all(patterns, jobs, again=False, json_path=None):
    """Runs the cases whose names match any pattern; returns (passed, failed, known): a case that is known to fail and does is
    neither passed nor failed."""
    chosen = [c for c in CASES if not patterns or any(fnmatch.fnmatch(c.name, p) or p in c.name for p in patterns)]
    chosen = [c for c in chosen if not (again and c.once)]
    lock = threading.Lock()
    failed, known = [], []
    expected = known_failures()

    def report(c, problem, seconds):
        with lock:
            if problem and c.name in expected:
                known.append(c.name)
                print(f"KNOWN {c.name} ({seconds:.1f} s): {expected[c.name]}", flush=True)
                return
            print(f"{'FAIL' if problem else 'ok  '} {c.name} ({seconds:.1f} s)", flush=True)
            if not problem and c.name in expected:
                print("  passes although it is in tests/known-failures.txt", flush=True)
            if problem:
                failed.append(c.name)
                print("  " + clip(problem, 80).replace("\n", "\n  "), flush=True)

    with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        for f in concurrent.futures.as_completed([pool.submit(run_one, c) for c in chosen if not c.alone]):
            report(*f.result())
    for c in chosen:
        if c.alone:
            report(*run_one(c))
    if json_path:
        import json

        counts = {"passed": len(chosen) - len(failed) - len(known), "failed": sorted(failed), "known": sorted(known)}
        pathlib.Path(json_path).write_text(json.dumps(counts))
    return len(chosen) - len(failed) - len(known), len(failed), len(known)
