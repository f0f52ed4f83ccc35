"""Ends: of the supervisor, of a fork bomb, of orphans, by Ctrl-C."""

import os
import shutil
import signal
import time
import uuid

from harness import HERE, Settings, alive, case, check, descendants, equal, processes_with, wait_until

SPIN = r"""
import os, sys, time
n = int(sys.argv[2])
for i in range(n):
    if os.fork() == 0:
        if i % 3 == 0:
            while True: pass
        if i % 3 == 1:
            time.sleep(1000)
        while True:
            p = os.fork()
            if p == 0: os._exit(0)
            os.waitpid(p, 0)
print("ready", flush=True)
time.sleep(1000)
"""


@case(timeout=90, alone=True)
def nothing_outlives_a_killed_supervisor(t):
    t.write("spin.py", SPIN)
    token = f"nomina-{uuid.uuid4().hex}"
    p = t.spawn(t.argv(["/usr/bin/python3", "spin.py", token, "50"], ["--env", f"TOKEN={token}"]))
    equal(p.stdout.readline(), b"ready\n")
    mine = [x for x in descendants(p.pid) if x != p.pid]
    check(len(mine) >= 40, f"only {len(mine)} host processes below the supervisor")
    p.kill()
    time.sleep(1.0)
    left = [x for x in mine if alive(x)]
    equal(left, [], "host processes left one second after kill -9 of the supervisor")
    equal([x for x in processes_with(token) if alive(x)], [], "found by their command line")


def name_of(pid):
    try:
        return open(f"/proc/{pid}/comm").read().strip()
    except OSError:
        return None


@case(timeout=90, alone=True)
def nothing_outlives_supervisor_and_guardian_killed_at_once(t):
    t.write("spin.py", SPIN)
    token = f"nomina-{uuid.uuid4().hex}"
    p = t.spawn(t.argv(["/usr/bin/python3", "spin.py", token, "30"], ["--env", f"TOKEN={token}"]))
    equal(p.stdout.readline(), b"ready\n")
    time.sleep(1.5)
    mine = descendants(p.pid)
    own = [p.pid] + [x for x in mine if name_of(x) == "nomina-guard"]
    equal(len(own), 2, "supervisor and guardian")
    # Stopped, neither can see the other die.
    for signum in (signal.SIGSTOP, signal.SIGKILL):
        for x in own:
            os.kill(x, signum)
    time.sleep(1.0)
    equal([x for x in mine if x != p.pid and alive(x)], [], "host processes left")
    equal([x for x in processes_with(token) if alive(x)], [], "found by their command line")


@case(timeout=120, alone=True)
def every_single_helper_may_be_killed(t):
    """Whichever of Nomina's own processes dies, the guests die too."""
    for victim in range(3):
        p = t.spawn(t.argv(["sleep", "777"]))
        time.sleep(0.7)
        mine = descendants(p.pid)
        own = [x for x in mine if open(f"/proc/{x}/comm").read().startswith("nomina")]
        if victim >= len(own):
            p.kill()
            continue
        os.kill(own[victim], signal.SIGKILL)
        wait_until(lambda: not any(alive(x) for x in mine if x != own[victim] and x != p.pid), 1.5, what=f"end of everything after killing process {victim} of Nomina's")
        p.kill()


@case(timeout=90, alone=True)
def a_fork_bomb_is_held_and_can_be_ended(t):
    p = t.spawn(t.argv(["bash", "-c", "bomb() { bomb 2>/dev/null | bomb 2>/dev/null & }; echo ready; bomb; sleep 1000"], ["--pids", "60"]), stdin=None)
    equal(p.stdout.readline(), b"ready\n")
    time.sleep(2)
    mine = descendants(p.pid)
    check(len(mine) < 100, f"{len(mine)} host processes with --pids 60")
    p.send_signal(signal.SIGINT)
    try:
        p.wait(3)
    except Exception:
        p.send_signal(signal.SIGTERM)
        p.wait(5)
    time.sleep(0.5)
    equal([x for x in mine if alive(x)], [], "left after the end")


@case()
def a_program_that_ignores_requests_to_end_is_ended_by_the_third(t):
    p = t.spawn(t.argv(["bash", "-c", "trap '' INT TERM HUP; echo up; while :; do sleep 0.1; done"]))
    equal(p.stdout.readline(), b"up\n")
    for code in (None, None, 137):
        p.send_signal(signal.SIGTERM)
        time.sleep(1)
        equal(p.poll(), code, "after another SIGTERM")


@case(timeout=90, alone=True)
def a_bomb_of_processes_made_behind_the_supervisors_back_is_held(t):
    """Native clone from shim text, without a number inside: the native limit holds it, and it ends with the sandbox."""
    shutil.copy(Settings.built / "abuse/native_bomb", t.dir)
    argv = t.argv(["bash", "-c", ": NOMINA_ABUSE; ./native_bomb 2; sleep 100"], ["--pids", "30", "--env", "NOMINA_ABUSE_INSIDE=1"])
    p = t.spawn(argv)
    equal(p.stdout.readline(), b"bomb\n")
    time.sleep(3)
    mine = descendants(p.pid)
    check(100 < len(mine) < 1500, f"{len(mine)} host processes with --pids 30")
    p.send_signal(signal.SIGTERM)
    p.wait(10)
    equal([x for x in mine if alive(x)], [], "left after the end")


@case(timeout=60)
def the_pids_limit_is_seen_as_EAGAIN(t):
    t.write("f.py", "import os,time\nn=0\ntry:\n  while n < 500:\n    if os.fork()==0: time.sleep(100)\n    n+=1\nexcept BlockingIOError: pass\nprint(n, flush=True)\nos._exit(0)\n")
    r = t.run(["/usr/bin/python3", "f.py"], ["--pids", "40"]).ok()
    check(r.out.strip().isdigit() and 30 <= int(r.out) < 40, r.describe())
    r = t.sh("ulimit -u 30; /usr/bin/python3 f.py", ["--user", "1000:1000"])
    check(r.out.strip() and 15 <= int(r.out.split()[-1]) <= 30, r.describe())


@case()
def the_sandbox_ends_with_its_first_process(t):
    """As a pid namespace does: background processes do not keep it."""
    start = time.monotonic()
    t.sh("sleep 100 & setsid sleep 100 & echo started; exit 5").ok(5).has("started")
    check(time.monotonic() - start < 10, "waited for background processes")


BLOCKS = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
some = [signal.SIGINT, signal.SIGTERM]
signal.pthread_sigmask(signal.SIG_BLOCK, some)
signal.pthread_sigmask(signal.SIG_UNBLOCK, some)
os.kill(1, signal.SIGTERM)
print("ready", os.getpid(), flush=True)
time.sleep(1000)
"""


@case(timeout=60)
def inits_of_containers_forward_signals_that_they_wait_for(t):
    """They block everything and wait with sigtimedwait(2) or signalfd(2), without a handler."""
    child = 'trap "echo got it; exit 7" TERM; (sleep 0.1; kill -TERM 1) & while :; do sleep 0.05; done'
    for init in ("tini", "dumb-init", "catatonit"):
        t.run([init, "--", "sh", "-c", child]).ok(7).has("got it")


@case()
def the_first_process_keeps_what_it_blocks_and_only_the_host_ends_it(t):
    program = shutil.copy(Settings.built / "oracle" / "init_signals", t.dir)
    kept = (HERE / "oracle" / "expected" / "init_signals.out").read_text().partition("init: exit 5")[0]
    equal(t.run([program]).ok(5).out, kept, "as the first process")
    t.write("blocks.py", BLOCKS)
    p = t.spawn(t.argv(["/usr/bin/python3", "blocks.py"]))
    equal(p.stdout.readline(), b"ready 1\n")
    first = [x for x in descendants(p.pid) if name_of(x) == "python3"]
    os.kill(first[0], signal.SIGTERM)
    equal(p.wait(10), 143, "exit code after SIGTERM from the host")


@case()
def orphans_are_adopted_and_reaped(t):
    r = t.sh("(sh -c 'sleep 0.2 & echo $!' ) > /tmp/p; p=$(cat /tmp/p); sed -n 's/^PPid:.//p' /proc/$p/status; sleep 0.5; wait; ls /proc | grep -c '^[0-9]'; for i in $(seq 50); do (sleep 0.01 &) ; done; sleep 0.5; ps ax | grep -c defunct").ok()
    equal(r.lines()[0], "1")


@case(timeout=60)
def a_closed_stdout_ends_by_SIGPIPE(t):
    p = t.spawn(["bash", "-c", " ".join(map(str, t.argv(["yes"]))) + " | head -1; echo ${PIPESTATUS[0]}"])
    out = p.communicate(timeout=t.left(20))[0].decode().split()
    equal(out[0], "y")
    check(out[1] in ("141", "1"), out)
