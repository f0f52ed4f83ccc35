"""Running sandboxes from outside: nomina ps, ns, exec, kill."""

import collections
import json
import os
import signal
import subprocess
import time
import xml.etree.ElementTree

from harness import Settings, alive, case, check, equal, wait_until
from terminal import Tmux


class Runtime:
    """A runtime directory of the case's own, and sandboxes that are found in it."""

    def __init__(self, t):
        self.t = t
        self.dir = t.dir / "runtime"
        self.env = {**os.environ, "NOMINA_RUNTIME_DIR": str(self.dir)}

    def nomina(self, *args, **kw):
        return self.t.native([*Settings.lockdown, Settings.nomina, *args], env=self.env, **kw)

    def start(self, name, command, opts=()):
        opts = [*opts, "--name", name] if name else opts
        p = self.t.spawn(self.t.argv(command, opts), env=self.env)
        if name:
            wait_until(lambda: self.nomina("ps", "-q", name).code == 0, 20, what=f"start of sandbox {name}")
        return p

    def json(self, *args):
        return json.loads(self.nomina(*args, "--json").ok().out)

    def processes(self, *args):
        return {(r["name"], r["pid"]): r for r in self.json("ps", *args)}

    def entries(self):
        d = self.dir
        return sorted(x.name for x in d.iterdir()) if d.exists() else []


@case()
def ps_shows_the_processes_of_every_sandbox(t):
    r = Runtime(t)
    a = r.start("a", ["sh", "-c", "sleep 600 & exec sleep 601"])
    r.start("b", ["sleep", "602"], ["--user", "1000"])
    wait_until(lambda: len(r.processes()) == 3, what="three processes")
    wait_until(lambda: r.processes()["a", 1]["command"] == ["sleep", "601"], what="the exec")
    all = r.processes()
    equal(sorted(all), [("a", 1), ("a", 2), ("b", 1)])
    equal([all[k]["command"] for k in sorted(all)], [["sleep", "601"], ["sleep", "600"], ["sleep", "602"]])
    equal((all["a", 1]["ppid"], all["a", 2]["ppid"], all["a", 1]["uid"], all["b", 1]["uid"]), (0, 1, 0, 1000))
    equal((all["a", 1]["user"], all["a", 1]["state"]), ("root", "S"))
    check(abs(all["b", 1]["started"] - time.time()) < 60, f"started {all['b', 1]['started']}")
    host = all["a", 2]["host_pid"]
    equal(open(f"/proc/{host}/cmdline").read(), "sleep\x00600\x00", "the host pid")
    # The table tells the same.
    lines = r.nomina("ps").ok().lines()
    equal(lines[0].split(), ["SANDBOX", "NAME", "USER", "PID", "HOST", "STATE", "AGE", "COMMAND"])
    rows = {(f[1], int(f[3])): f for f in (l.split(None, 7) for l in lines[1:])}
    equal(sorted(rows), sorted(all))
    for key, row in rows.items():
        equal((row[0], int(row[4]), row[7].split()), (all[key]["sandbox"], all[key]["host_pid"], all[key]["command"]), str(key))
    # By name, by id, by its beginning; by user.
    b = all["b", 1]["sandbox"]
    for which in ("b", b, b[:8]):
        equal(sorted(r.processes(which)), [("b", 1)], which)
    equal(r.nomina("ps", "-q").ok().lines(), sorted({x["sandbox"] for x in all.values()}))
    equal(len(r.json("ps", "--user", "root")), 2)
    a.terminate()
    a.wait(10)
    equal(sorted(r.processes()), [("b", 1)], "after the end of a")


def recount(view):
    """The counts of a view by their definition."""
    held = collections.Counter(th["nsproxy"] for p in view["processes"] for th in p["threads"] if th["nsproxy"] is not None)
    equal({n["id"]: n["count"] for n in view["nsproxies"]}, dict(held), "tasks that hold each nsproxy")
    points = collections.Counter()
    for n in view["nsproxies"]:
        points.update({("uts", n["uts"]), ("ipc", n["ipc"]), ("mnt", n["mnt"]), ("pid", n["pid_for_children"])})
        points.update({("net", n["net"]), ("cgroup", n["cgroup"]), ("time", n["time"]), ("time", n["time_for_children"])})
    for ns in view["namespaces"]:
        if ns["kind"] != "user":
            equal(ns["count"], points[ns["kind"], ns["inum"]], f"nsproxies that point to {ns['kind']}:[{ns['inum']}]")


NESTED = "hostname outer; unshare --uts --user --map-root-user --pid --fork --mount sh -c 'hostname inner; mount -t tmpfs x /mnt; mount --make-shared /mnt; sleep 600'"


@case()
def ns_counts_what_the_model_counts(t):
    r = Runtime(t)
    r.start("n", ["sh", "-c", NESTED])
    wait_until(lambda: "sleep" in r.nomina("ps", "n").out, what="the inner shell")
    wait_until(lambda: any(p["comm"] == "sleep" for p in r.json("ns", "n")[0]["processes"]), what="sleep")
    [view] = r.json("ns", "n", "--mounts")
    recount(view)
    by = {p["comm"]: p for p in view["processes"]}
    inner = by["sleep"]
    check(len(inner["pids"]) == 2 and inner["pids"][0] == inner["pid"] > inner["pids"][1] > 1, f"its numbers: {inner}")
    [uts] = [n for n in view["namespaces"] if n["kind"] == "uts" and n["hostname"] == "inner"]
    equal((uts["count"], uts["tasks"]), (1, 3), "unshare, sh and sleep are in the inner uts namespace by one nsproxy")
    users = sorted((n for n in view["namespaces"] if n["kind"] == "user"), key=lambda n: n["level"])
    equal([n["level"] for n in users], [0, 1])
    equal((users[1]["parent"], users[1]["uid_map"]), (users[0]["inum"], [[0, 0, 1]]))
    # The numbers are those that programs inside see.
    shown = r.nomina("exec", "--pid", str(inner["pid"]), "n", "readlink", "/proc/self/ns/uts", "/proc/self/ns/user").ok().lines()
    equal(shown, [f"uts:[{uts['inum']}]", f"user:[{users[1]['inum']}]"])
    [mnt] = [n for n in view["namespaces"] if n["kind"] == "mnt" and any(m["source"] == "x" for m in n["mounts"])]
    [tmpfs] = [m for m in mnt["mounts"] if m["source"] == "x"]
    equal((tmpfs["mountpoint"], tmpfs["fstype"]), ("/mnt", "tmpfs"))
    check(tmpfs["shared"], f"shared: {tmpfs}")
    text = r.nomina("ns", "n", "--mounts").ok()
    text.has("inner", "outer", "swapper", f"shared:{tmpfs['shared']}", str(uts["inum"]))


@case()
def ns_draws_a_picture(t):
    r = Runtime(t)
    r.start("pic", ["sh", "-c", NESTED])
    wait_until(lambda: "sleep 600" in r.nomina("ps", "pic").out.splitlines()[-1], what="the inner shell")
    wait_until(lambda: any(p["comm"] == "sleep" for p in r.json("ns", "pic")[0]["processes"]), what="sleep")
    draw = lambda: r.nomina("ns", "pic", "--svg", "-").ok().out
    svg = draw()
    equal(draw(), svg, "two pictures of one state")
    root = xml.etree.ElementTree.fromstring(svg)
    equal(root.tag, "{http://www.w3.org/2000/svg}svg")
    words = " ".join(root.itertext())
    for word in ("inner", "outer", "sleep", "unshare", "/mnt"):
        check(word in words, f"{word!r} is not in the picture: {words[:2000]}")
    r.nomina("ns", "--svg", t.dir / "x.svg").ok()
    equal((t.dir / "x.svg").read_text(), svg, "the file")


@case()
def exec_passes_streams_codes_and_surroundings(t):
    r = Runtime(t)
    r.start("x", ["sh", "-c", "cd /usr; exec sleep 600"], ["--env", "FIRST=1", "--hostname", "box"])
    x = lambda *args, **kw: r.nomina("exec", *args, **kw)
    wait_until(lambda: x("x", "pwd").out == "/usr\n", what="the working directory of the first program")
    out = x("x", "sh", "-c", "cat; echo err >&2; exit 7", input="in\n").ok(7)
    equal((out.out, out.err), ("in\n", "err\n"))
    equal(x("x", "sh", "-c", "kill -TERM $$").code, 143)
    out = x("-e", "A=b", "-w", "/etc", "x", "sh", "-c", "echo $FIRST $A $(pwd) $(hostname) $PPID $(id -u)").ok()
    equal(out.out, "1 b /etc box 0 0\n")
    equal(x("-u", "1:3", "x", "sh", "-c", "id -u; id -G").ok().out, "1\n3\n")
    equal(x("-u", "daemon", "x", "sh", "-c", "id -un; echo $HOME").ok().out, "daemon\n/usr/sbin\n")
    x("--clear-env", "-e", "ONLY=1", "x", "/usr/bin/env").ok().has("ONLY=1\n").lacks("FIRST", "PATH")
    # Nomina keeps no end of a pipe open that the program has closed.
    p = t.spawn([*Settings.lockdown, Settings.nomina, "exec", "x", "sh", "-c", "exec 1>&-; exec sleep 600"], env=r.env)
    before = time.monotonic()
    equal((p.stdout.read(), time.monotonic() - before < 30), (b"", True))
    p.terminate()
    equal(p.wait(10), 143)
    # A set-user-ID program, a script, a fork: it is a guest like any other.
    t.write("script", "#!/bin/sh\necho $0 $1 | cat\n", 0o755)
    x("x", "sh", "-c", "printf '#!/bin/sh\\necho script $1 | cat\\n' > /root/s; chmod 755 /root/s").ok()
    equal(x("x", "/root/s", "arg").ok().out, "script arg\n")
    # Whom it does not see outside, it does not see when it has entered.
    inside = x("x", "sh", "-c", "for p in /proc/[0-9]*; do cat $p/comm; done").ok().lines()
    equal(sorted(inside), ["sh", "sleep"], "processes seen from inside")
    equal(len(r.processes("x")), 1, "none is left")


@case()
def exec_says_what_is_wrong(t):
    r = Runtime(t)
    r.start("x", ["sleep", "600"])
    for args, code, text in (
        (["x", "nosuch"], 127, "nosuch: not found"),
        (["x", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["-w", "/nowhere", "x", "true"], 125, "workdir /nowhere: No such file or directory"),
        (["nobody", "true"], 125, "sandbox nobody: none of that id or name is running"),
        (["--pid", "99", "x", "true"], 125, "pid 99: no such process inside"),
        (["x"], 125, "required arguments were not provided: <COMMAND>"),
        (["-u", "noone", "x", "true"], 125, "user noone: not in the sandbox's /etc/passwd"),
        (["-u", "root:wheel", "x", "true"], 125, "the group must be a number"),
        (["-t", "-T", "x", "true"], 125, "cannot be used with"),
    ):
        got = r.nomina("exec", *args)
        equal((got.code, got.err.count("\n"), got.err.startswith("nomina: ")), (code, 1, True), got.describe())
        check(text in got.err, got.describe())
    got = t.native([*Settings.lockdown, "sh", "-c", '"$0" exec x true < /', Settings.nomina], env=r.env)
    equal(got.code, 125, got.describe())
    check("directory" in got.err, got.describe())


@case()
def exec_forwards_signals_and_its_process_outlives_it(t):
    r = Runtime(t)
    r.start("x", ["sleep", "600"])
    argv = [*Settings.lockdown, Settings.nomina, "exec", "x", "sh", "-c", "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done"]
    p = t.spawn(argv, env=r.env)
    equal(p.stdout.readline(), b"ready\n")
    p.send_signal(signal.SIGUSR1)
    equal((p.stdout.read(), p.wait(10)), (b"got\n", 5))
    # Killed, it leaves the process behind; that ends with the sandbox.
    p = t.spawn([*Settings.lockdown, Settings.nomina, "exec", "x", "sh", "-c", "echo $$; exec sleep 601"], env=r.env)
    pid = int(p.stdout.readline())
    p.kill()
    p.wait(10)
    time.sleep(0.2)
    host = r.processes("x")["x", pid]["host_pid"]
    check(alive(host), "the process ended with its client")
    r.nomina("kill", "x").ok()
    wait_until(lambda: not alive(host), 5, what="its end with the sandbox")


@case(timeout=90, alone=True)
def those_who_entered_die_with_the_supervisor(t):
    r = Runtime(t)
    sandbox = r.start("x", ["sleep", "600"])
    p = t.spawn([*Settings.lockdown, Settings.nomina, "exec", "x", "sh", "-c", "sleep 601 & sleep 602 & echo ready; wait"], env=r.env)
    equal(p.stdout.readline(), b"ready\n")
    hosts = [x["host_pid"] for x in r.json("ps", "x")]
    equal(len(hosts), 4)
    supervisor = r.json("ns", "x")[0]["supervisor"]
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not any(alive(x) for x in hosts), 2, what="the end of all guests")
    equal(p.wait(10), 137)
    sandbox.wait(10)


@case(timeout=90)
def exec_gives_a_terminal_with_job_control(t):
    r = Runtime(t)
    r.start("x", ["sleep", "600"])
    command = ["env", f"NOMINA_RUNTIME_DIR={r.dir}", *Settings.lockdown, Settings.nomina, "exec", "-e", "PS1=ready> ", "x", "bash", "--norc", "-i"]
    tm = Tmux(t, command, inside=False)
    try:
        tm.expect("ready>")
        tm.line("tty; stty size; echo A$?A")
        tm.expect("A0A")
        check("/dev/pts/" in tm.screen() and "30 100" in tm.screen(), tm.screen())
        check("no job control" not in tm.screen(), tm.screen())
        tm.line("sleep 1000")
        time.sleep(0.5)
        tm.keys("C-z")
        tm.expect("Stopped")
        tm.line("fg")
        time.sleep(0.5)
        tm.keys("C-c")
        time.sleep(0.3)
        tm.line("echo code $?")
        tm.expect("code 130")
        tm.line("exit 9")
        tm.expect("ended 9")
    finally:
        tm.close()


@case()
def kill_sends_by_the_numbers_inside(t):
    r = Runtime(t)
    p = r.start("x", ["sh", "-c", "trap 'exit 3' TERM; sleep 601 & sleep 602 & while :; do sleep 0.05; done"])
    wait_until(lambda: {("x", 1), ("x", 2), ("x", 3)} <= set(r.processes()), what="its children")
    r.nomina("kill", "-s", "0", "x", "2", "3").ok()
    r.nomina("kill", "x", "2").ok()
    wait_until(lambda: ("x", 2) not in r.processes(), what="the end of process 2")
    check(("x", 3) in r.processes(), "process 3 has ended too")
    gone = r.nomina("kill", "x", "2222")
    equal((gone.code, gone.err.count("\n")), (125, 1))
    check("pid 2222: no such process" in gone.err, gone.err)
    equal(r.nomina("kill", "-s", "NOSUCH", "x").code, 125)
    r.nomina("kill", "-9", "x", "3").ok()
    wait_until(lambda: ("x", 3) not in r.processes(), what="the end of process 3")
    # Init gets what it has a handler for.
    r.nomina("kill", "-s", "HUP", "x").ok()
    time.sleep(0.2)
    equal(p.poll(), None, "HUP, which init has no handler for")
    r.nomina("kill", "-s", "sigterm", "x").ok()
    equal(p.wait(10), 3)
    q = r.start("y", ["sleep", "600"])
    r.nomina("kill", "y").ok()
    equal(q.wait(10), 137)
    equal(r.nomina("kill", "y").code, 125)


@case()
def a_killed_supervisors_entry_is_removed(t):
    r = Runtime(t)
    p = r.start("x", ["sleep", "600"])
    equal(len(r.entries()), 2)
    supervisor = r.json("ns", "x")[0]["supervisor"]
    os.kill(supervisor, signal.SIGKILL)
    p.wait(10)
    equal(len(r.entries()), 2, "what it left behind")
    equal(r.json("ps"), [])
    equal(r.entries(), [], "after somebody has looked")
    # Its name is free at once, looked at or not.
    p = r.start("x", ["sleep", "600"])
    os.kill(r.json("ns", "x")[0]["supervisor"], signal.SIGKILL)
    p.wait(10)
    r.start("x", ["sleep", "600"])
    equal(len(r.entries()), 2)


@case()
def a_name_is_of_one_sandbox(t):
    r = Runtime(t)
    p = r.start("x", ["sleep", "600"])
    taken = t.native(t.argv(["true"], ["--name", "x"]), env=r.env)
    equal((taken.code, taken.err.count("\n")), (125, 1), taken.describe())
    check("name x: sandbox" in taken.err and "nomina kill x" in taken.err, taken.err)
    bad = t.native(t.argv(["true"], ["--name", "../x"]), env=r.env)
    equal(bad.code, 125)
    # Without a name they do not get into each other's way.
    t.native(t.argv(["true"]), env=r.env).ok()
    p.terminate()
    p.wait(10)
    t.native(t.argv(["true"], ["--name", "x"]), env=r.env).ok()
    equal(r.entries(), [])


@case()
def a_stopped_supervisor_is_named(t):
    r = Runtime(t)
    r.start("x", ["sleep", "600"])
    supervisor = r.json("ns", "x")[0]["supervisor"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        got = r.nomina("ps")
        equal(got.code, 125)
        check("does not answer" in got.err, got.err)
        equal(len(r.nomina("ps", "-q").ok().lines()), 1)
    finally:
        os.kill(supervisor, signal.SIGCONT)


REACH = r"""
import glob, json, os, socket, sys
d = sys.argv[1]
entries = glob.glob(d + "/*.sock")
print("entries", len(entries))
for path in entries:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        try:
            s = socket.socket(socket.AF_UNIX, kind)
            s.connect(path)
            print("REACHED")
        except OSError:
            pass
    try:
        os.open(path, os.O_RDWR)
        print("OPENED")
    except OSError:
        pass
"""


@case()
def a_guest_cannot_ask(t):
    """Not even where it is shown the directory, and writes to it."""
    r = Runtime(t)
    r.start("victim", ["sleep", "600"])
    t.write("reach.py", REACH)
    d = r.dir
    reach = lambda opts: t.native(t.argv(["python3", t.dir / "reach.py", d], opts), env=r.env).ok().lacks("REACHED", "OPENED")
    reach(["--rw", t.dir])
    reach(["--rw", "/var/tmp"])
    # A sandbox that is called by another's entry does not answer for it.
    r.start("evil", ["sleep", "600"])
    ids = {x["name"]: x["sandbox"] for x in r.json("ps")}
    os.rename(d / f"{ids['evil']}.sock", d / f"{ids['victim']}.sock")
    got = r.nomina("exec", "victim", "true")
    equal(got.code, 125, got.describe())
    check("leads to another sandbox" in got.err, got.err)
    # Others may not ask either: the directory is closed.
    equal(oct(d.stat().st_mode & 0o777), "0o700")
