"""A kept layer after `kill -9` of everything at a random moment: it shows what was done, and nothing half done.

Several workers inside do random operations, each in a tree of its own, and say how many they have ended. Another sandbox,
over the same lower tree, does exactly as many and shows what there is then. The layer of the killed sandbox, opened
again, must show the same, or what the operation that was under way leads to.
"""

import json
import os
import random
import signal
import time

from harness import Failure, case, check, descendants

WORKERS = 4

# The operations depend on seed, worker and number alone; errors are part of what they do.
WORKLOAD = r"""
import ctypes, hashlib, json, os, random, stat, sys

libc = ctypes.CDLL(None, use_errno=True)

def rename2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags):
        raise OSError(ctypes.get_errno(), "renameat2")

def create(path, mode, uid):
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    os.close(fd)
    if uid: os.chown(path, uid, uid)

def append(path, text):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    os.write(fd, text)
    os.fsync(fd)
    os.close(fd)

def remove(path):
    (os.rmdir if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink)(path)

def as_user(uid, do):
    os.setegid(uid); os.seteuid(uid)
    try: do()
    finally: os.seteuid(0); os.setegid(0)

def operation(seed, worker, n):
    r = random.Random(f"{seed} {worker} {n}")
    name = lambda: "/".join(r.choice("abcd") for _ in range(r.randint(1, 3)))
    a, b, kind = name(), name(), r.randrange(22)
    text = hashlib.sha1(f"{worker} {n}".encode()).hexdigest().encode() + b"\n"
    if kind < 3: create(a, r.choice([0o644, 0o600, 0o4755]), 0)
    elif kind == 3: as_user(r.choice([7, 1000]), lambda: create(a, 0o640, 0))
    elif kind < 7: append(a, text)
    elif kind < 9: os.mkdir(a, r.choice([0o755, 0o1777]))
    elif kind < 12: remove(a)
    elif kind < 15: os.rename(a, b)
    elif kind == 15: rename2(a, b, 2)
    elif kind == 16: os.link(a, b)
    elif kind == 17: os.symlink(text.decode()[:9], a)
    elif kind == 18: os.chmod(a, r.randrange(0o10000), follow_symlinks=True)
    elif kind == 19: os.chown(a, r.choice([0, 7]), r.choice([0, 8]), follow_symlinks=False)
    elif kind == 20: os.mknod(a, 0o644 | r.choice([stat.S_IFCHR, stat.S_IFIFO]), os.makedev(1, 3))
    else: os.setxattr(a, "user.n", text)

def do(seed, worker, n):
    try: operation(seed, worker, n)
    except OSError: pass

def show():
    out = {}
    def see(path):
        st = os.lstat(path)
        what = [st.st_mode, st.st_uid, st.st_gid, st.st_rdev]
        if stat.S_ISREG(st.st_mode):
            what += [st.st_nlink, open(path).read(), sorted((x, os.getxattr(path, x).hex()) for x in os.listxattr(path))]
        elif stat.S_ISLNK(st.st_mode): what += [os.readlink(path)]
        out[path] = what
        if stat.S_ISDIR(st.st_mode):
            for name in sorted(os.listdir(path)): see(path + "/" + name)
    see(".")
    return out

mode, seed = sys.argv[1:3]
top = os.getcwd()
if mode == "work":
    for worker in range(int(sys.argv[3])):
        if os.fork() == 0:
            os.chdir(f"{top}/tree/{worker}")
            for n in range(1 << 30):
                do(seed, worker, n)
                os.write(1, b"%d %d\n" % (worker, n + 1))
    os.wait()
elif mode == "show":
    shown = []
    for worker in range(int(sys.argv[3])):
        os.chdir(f"{top}/tree/{worker}")
        shown.append(show())
    print(json.dumps(shown))
else:
    both = []
    for worker, count in enumerate(json.loads(sys.argv[3])):
        os.chdir(f"{top}/tree/{worker}")
        for n in range(count): do(seed, worker, n)
        now = show()
        do(seed, worker, count)
        both.append([now, show()])
    print(json.dumps(both))
"""


def lower_tree(t):
    for worker in range(WORKERS):
        for path in ("a/a", "a/b/c", "b/a/a", "b/b", "c/d/a", "d"):
            t.write(f"tree/{worker}/{path}", f"lower {path}\n")
        os.symlink("b/b", t.dir / f"tree/{worker}/c/l")


def kill_all(p, shuffle):
    """Supervisor, guardian and every guest, in any order."""
    pids = descendants(p.pid)
    shuffle(pids)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    # Children that were made meanwhile.
    for pid in descendants(p.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    p.wait()


def reopened(t, layer):
    """What a layer shows whose sandbox was killed; guests that are still dying keep it locked for a moment."""
    for _ in range(30):
        r = t.run(["python3", "work.py", "show", "-", WORKERS], ["--upper", layer])
        if "another sandbox is using" not in r.err:
            return json.loads(r.ok().out)
        time.sleep(0.1)
    raise Failure("the layer stays locked")


def differences(want, got):
    names = [name for name in sorted(want.keys() | got.keys()) if want.get(name) != got.get(name)]
    return "\n".join(f"  {name}: expected {want.get(name)}, found {got.get(name)}" for name in names[:8])


def one_round(t, number):
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    layer = t.dir / f"layer{number}"
    with open(t.dir / "log", "wb") as log:
        p = t.spawn(t.argv(["python3", "work.py", "work", seed, WORKERS], ["--keep", layer]), stdout=log)
        time.sleep(0.15 + rng.random() * 0.5)
        kill_all(p, rng.shuffle)
    counts = [0] * WORKERS
    for line in (t.dir / "log").read_text().splitlines():
        worker, count = line.split()
        counts[int(worker)] = int(count)
    if not (layer / "root").is_dir():
        check(not any(counts), "there is no layer, although something was done")
        return 0
    shown = reopened(t, layer)
    expected = json.loads(t.run(["python3", "work.py", "replay", seed, json.dumps(counts)]).ok().out)
    for worker, (got, (before, after)) in enumerate(zip(shown, expected)):
        if got not in (before, after):
            raise Failure(
                f"seed {seed}, worker {worker} after {counts[worker]} operations: not as before the next one:\n"
                f"{differences(before, got)}\nnor as after it:\n{differences(after, got)}"
            )
    if number % 5 == 0:
        check(reopened(t, layer) == shown, f"seed {seed}: opened again, the layer shows something else")
    return sum(counts)


@case(timeout=240, alone=True, once=True)
def a_kept_layer_survives_kill_9_at_any_moment(t):
    t.write("work.py", WORKLOAD)
    lower_tree(t)
    rounds = int(os.environ.get("NOMINA_DURABILITY_ROUNDS", "20"))
    t.deadline += rounds * 5
    done = sum(one_round(t, number) for number in range(rounds))
    check(done > rounds * 20, f"only {done} operations in {rounds} rounds")


@case()
def a_layer_has_one_user_at_a_time(t):
    layer = t.dir / "layer"
    p = t.spawn(t.argv(["sh", "-c", "echo ready; sleep 20"], ["--keep", layer]))
    p.stdout.readline()
    second = t.run(["true"], ["--upper", layer])
    check(second.code == 125 and "another sandbox is using" in second.err, second.describe())
