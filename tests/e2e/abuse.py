"""Guests that mean harm: the host stays as it was, and the supervisor goes on answering others."""

import contextlib
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from harness import Settings, alive, case, check, equal


class Host:
    """What must stay out of reach: a secret in the home directory, a file, a process, four sockets."""

    def __init__(self, t):
        self.token = secrets.token_hex(12)
        home = pathlib.Path(os.path.expanduser("~"))
        self.secret = home / f".nomina-secret-{self.token[:6]}"
        self.secret.write_text(self.token + "\n")
        self.secret.chmod(0o600)
        # Beside the working directory, not below it: visible inside at most as a copy.
        self.outside = pathlib.Path(Settings.work) / f"outside-{self.token[:6]}"
        self.outside.mkdir()
        self.canary = self.outside / "canary"
        self.canary.write_text("canary\n")
        self.process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        self.path = str(self.outside / "s")
        self.abstract = f"nomina-host-{self.token}"
        self.heard = []
        self.sockets = []
        for kind, address in (
            (socket.SOCK_STREAM, self.path),
            (socket.SOCK_STREAM, "\0" + self.abstract),
            (socket.SOCK_DGRAM, self.path + ".dgram"),
            (socket.SOCK_DGRAM, "\0" + self.abstract + "-dgram"),
        ):
            s = socket.socket(socket.AF_UNIX, kind)
            s.bind(address)
            s.settimeout(0.2)
            if kind == socket.SOCK_STREAM:
                s.listen()
            self.sockets.append((s, kind, address))
        self.stop = False
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        while not self.stop:
            for s, kind, address in self.sockets:
                with contextlib.suppress(TimeoutError, OSError):
                    s.settimeout(0.05)
                    got = s.accept() if kind == socket.SOCK_STREAM else s.recv(100)
                    self.heard.append((address, got))

    def arguments(self):
        return [self.token, self.secret, self.canary, self.process.pid, self.path, self.abstract]

    def verify(self):
        time.sleep(0.3)
        equal(self.heard, [], "a host socket heard from the sandbox")
        equal(self.canary.read_text(), "canary\n", "the canary file")
        equal(self.canary.stat().st_mode & 0o777, 0o644, "the canary's mode")
        equal(sorted(x.name for x in self.outside.iterdir()), ["canary", "s", "s.dgram"], "the canary's directory")
        equal(self.secret.read_text(), self.token + "\n", "the secret")
        check(alive(self.process.pid), "the host process was ended")
        equal(os.getpriority(os.PRIO_PROCESS, self.process.pid), 0, "the host process's priority")

    def close(self):
        self.stop = True
        self.thread.join()
        self.process.kill()
        self.process.wait()
        for s, _, _ in self.sockets:
            s.close()
        self.secret.unlink(missing_ok=True)
        shutil.rmtree(self.outside, ignore_errors=True)


def abuse(program, arguments=None, times=1, opts=(), codes=(0,), timeout=150):
    def run(t):
        host = Host(t)
        try:
            shutil.copy(Settings.built / "abuse" / program, t.dir)
            args = " ".join(f"'{a}'" for a in (host.arguments() if arguments is None else arguments))
            # The program, then another guest of the same sandbox: the supervisor must still answer it.
            # The first word tells the program that PID 1 is this shell: it runs nowhere else.
            script = f": NOMINA_ABUSE; for i in $(seq {times}); do ./{program} {args} $i; echo code $?; done; sh -c 'echo still alive; ls / >/tmp/l; cat /etc/hostname; cat /tmp/l | wc -l'; echo end"
            r = t.sh(script, [*opts, "--env", "NOMINA_ABUSE_INSIDE=1"], timeout=timeout)
            r.has("still alive", "end\n").lacks("ESCAPED", host.token, "panicked", "Bad system call (core")
            found = [int(l.split()[1]) for l in r.lines() if l.startswith("code ")]
            check(len(found) == times and all(c in codes for c in found), f"codes {found}: {r.describe()}")
            host.verify()
        finally:
            host.close()

    return run


case(timeout=240, name="abuse.every_syscall_with_hostile_arguments")(abuse("every_syscall", [0, 24], 2, timeout=220))
case(timeout=240, name="abuse.every_syscall_as_an_ordinary_user")(abuse("every_syscall", [0, 24], 1, ["--user", "1000:1000"], timeout=220))
case(timeout=60, name="abuse.forged_file_handles")(abuse("handles"))
case(timeout=60, name="abuse.control_groups_without_end")(abuse("cgroup_storm"))
case(timeout=60, name="abuse.programs_for_the_hosts_kernel")(abuse("bpf_calls"))
case(timeout=60, name="abuse.writers_that_never_stop_hold_up_nobody")(abuse("control_flood"))
case(timeout=60, name="abuse.calls_that_never_stop")(abuse("call_flood", []))
case(timeout=60, name="abuse.files_of_proc_that_are_the_hosts")(abuse("live_proc", []))
case(timeout=60, name="abuse.foreign_system_call_tables")(abuse("foreign_abi"))
case(timeout=240, name="abuse.jumping_into_the_shim")(abuse("jump_shim", timeout=220))
case(timeout=120, name="abuse.flipping_the_shared_page")(abuse("flip_page"))
case(timeout=240, name="abuse.forged_requests")(abuse("forge_gate", timeout=220))
case(timeout=60, name="abuse.signals_and_descriptors_by_way_of_others")(abuse("owners", []))
case(timeout=90, name="abuse.descriptors_given_unasked")(abuse("give_fds"))
case(timeout=90, name="abuse.directory_handles_dots_and_races")(abuse("pass_dirs"))
case(timeout=90, name="abuse.directory_handles_with_rw")(abuse("pass_dirs", opts=["--rw", "."]))
case(timeout=60, name="abuse.an_exec_that_was_prepared_but_not_made")(abuse("false_exec", ["/usr/bin/su"], opts=["--user", "1000:1000"]))
case(timeout=60, name="abuse.forks_that_were_promised_and_not_made")(abuse("promise_forge", []))
case(timeout=60, name="abuse.a_socket_left_for_the_next_image")(abuse("ahead_socket", []))
case(timeout=60, name="abuse.a_slot_lent_to_a_child_that_has_more_privilege")(abuse("lent_slot", []))
case(timeout=60, name="abuse.tracing_what_must_not_be_traced")(abuse("trace", []))
case(timeout=60, name="abuse.ways_around_an_own_seccomp_filter")(abuse("filter_escape", []))
case(timeout=60, name="abuse.connects_that_would_block")(abuse("block_connect", []))
case(timeout=60, name="abuse.control_files_written_from_everywhere")(abuse("control_writes", []))
case(timeout=60, name="abuse.overlays_of_what_is_not_the_mounters")(abuse("overlay_layers"))
case(timeout=90, name="abuse.ipc_objects_that_are_not_theirs")(abuse("ipc", []))
case(timeout=120, name="abuse.floods_of_ipc_objects")(abuse("ipc", ["flood"]))
case(timeout=60, name="abuse.host_processes_sockets_terminals")(abuse("reach_host"))


@case(timeout=120)
def mounts_without_end_meet_the_limit_and_hold_up_nobody(t):
    shutil.copy(Settings.built / "abuse" / "mount_bomb", t.dir)
    r = t.sh(": NOMINA_ABUSE; ./mount_bomb; echo code $?", ["--env", "NOMINA_ABUSE_INSIDE=1"]).ok()
    r.has("served many, the slowest in time", "code 0").lacks("FAILED", "panicked")


@case(timeout=120)
def the_calls_on_mounts_are_used_with_ill_will(t):
    """Descriptors of the wrong kind, sizes that lie, ids of other namespaces, races; a read-only bind that stays so."""
    outside = pathlib.Path(tempfile.mkdtemp(prefix="nomina-mounts.", dir="/var/tmp"))
    try:
        (outside / "canary").write_text("canary")
        shutil.copy(Settings.built / "abuse" / "mount_calls", t.dir)
        script = f": NOMINA_ABUSE; ./mount_calls {os.urandom(8).hex()}; echo code $?; sh -c 'echo still alive'"
        r = t.sh(script, ["--bind", f"{outside}:/ro:ro", "--env", "NOMINA_ABUSE_INSIDE=1"])
        r.has("done", "code 0", "still alive").lacks("ESCAPED", "FAILED", "panicked")
        equal((outside / "canary").read_text(), "canary", "the file below the read-only bind")
        equal([x.name for x in outside.iterdir()], ["canary"], "its directory")
    finally:
        shutil.rmtree(outside, ignore_errors=True)


@case(timeout=90)
def nobody_walks_out_of_a_bind_when_directories_move(t):
    """A host directory and one in it are both bound, and things are moved between them while others walk."""
    outside = pathlib.Path(tempfile.mkdtemp(prefix="nomina-moved.", dir="/var/tmp"))
    try:
        token = f"moved-{os.urandom(8).hex()}"
        for d in ("top/low/sub/deep", "top/away"):
            (outside / d).mkdir(parents=True)
        (outside / "canary").write_text(token)
        shutil.copy(Settings.built / "abuse" / "moved_dirs", t.dir)
        binds = ["--bind", f"{outside}/top:/up", "--bind", f"{outside}/top/low:/low"]
        script = f": NOMINA_ABUSE; ./moved_dirs {token}; echo code $?"
        r = t.sh(script, [*binds, "--env", "NOMINA_ABUSE_INSIDE=1"])
        r.has("tried often enough", "code 0").lacks("ESCAPED", "panicked")
        equal((outside / "canary").read_text(), token, "what lies above the bind")
        equal((outside / "canary").stat().st_mode & 0o777, 0o644, "its mode")
        equal(sorted(x.name for x in outside.iterdir()), ["canary", "top"], "its directory")
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", str(outside)], check=False)
        shutil.rmtree(outside, ignore_errors=True)


@case(timeout=60)
def a_guest_cannot_type_into_the_callers_terminal(t):
    """TIOCSTI on the terminal that was passed through."""
    code = "import fcntl,termios\nfor fd in range(3):\n  try:\n    fcntl.ioctl(fd, termios.TIOCSTI, b'x'); print('ESCAPED', fd)\n  except OSError as e: print('refused', e.errno)\n"
    t.write("sti.py", code)
    argv = t.argv(["/usr/bin/python3", "sti.py"])
    r = t.native(["script", "-qec", " ".join(map(str, argv)), "/dev/null"]).ok()
    r.has("refused").lacks("ESCAPED")


@case(timeout=60)
def two_sandboxes_do_not_meet(t):
    """Abstract sockets, /tmp, processes and shared memory are per sandbox."""
    p = t.spawn(t.argv(["/usr/bin/python3", "-c", "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind('\\0meet'); s.listen(); open('/tmp/meet','w'); open('/dev/shm/meet','w'); print('up', flush=True); time.sleep(30)"]))
    equal(p.stdout.readline(), b"up\n")
    r = t.run(["/usr/bin/python3", "-c", "import socket,os\ntry:\n  socket.socket(socket.AF_UNIX).connect('\\0meet'); print('MET')\nexcept ConnectionRefusedError: print('refused')\nprint(os.path.exists('/tmp/meet'), os.path.exists('/dev/shm/meet'), len([d for d in os.listdir('/proc') if d.isdigit()]))"]).ok()
    equal(r.lines(), ["refused", "False False 1"])


@case(timeout=90)
def exhausting_descriptors_and_memory_hurts_only_the_guest(t):
    r = t.sh(r"""
/usr/bin/python3 -c "
import os
fds = []
try:
    while True: fds.append(os.open('/', os.O_RDONLY))
except OSError as e: print('EMFILE', e.errno)
" 
(ulimit -v 200000; /usr/bin/python3 -c "x = 'a' * (1 << 30)" 2>&1 | tail -1)
for i in $(seq 30); do mkdir -p /tmp/deep/$(printf 'd%.0s/' $(seq 200)) ; done
/usr/bin/python3 -c "
import os
os.chdir('/tmp')
for i in range(3000):
    os.mkdir('d'); os.chdir('d')
print('deep')
"
for i in $(seq 5000); do : > /tmp/many$i; done; ls /tmp | wc -l
sh -c 'echo still alive'
""").ok()
    r.has("EMFILE 24", "MemoryError", "deep", "still alive")


@case(timeout=60)
def a_handle_for_reading_never_becomes_one_for_writing(t):
    """Lower files, files bound read-only and standard input, by /proc/self/fd, fchmod, linkat and their like."""
    shutil.copy(Settings.built / "abuse/reopen", t.dir)
    # Beside the working directory, so that they have no name in its copy.
    outside = pathlib.Path(Settings.work) / f"reopen-{secrets.token_hex(4)}"
    outside.mkdir()
    files = [pathlib.Path(t.dir) / "kept", pathlib.Path(t.dir) / "deleted", outside / "bound", outside / "stdin"]
    for file in files:
        file.write_text("original\n")
    before = [(f.read_text(), f.stat().st_mode, f.stat().st_mtime_ns, f.stat().st_nlink, os.listxattr(f)) for f in files]
    argv = t.argv(
        ["sh", "-c", ": NOMINA_ABUSE; ./reopen kept -deleted /ro/bound @0; echo end"],
        ["--bind", f"{outside}:/ro:ro", "--env", "NOMINA_ABUSE_INSIDE=1"],
    )
    with open(files[3]) as stdin:
        r = subprocess.run([str(a) for a in argv], stdin=stdin, capture_output=True, text=True, timeout=50, cwd=t.dir)
    check("tried" in r.stdout and "ESCAPED" not in r.stdout, r.stdout + r.stderr)
    after = [(f.read_text(), f.stat().st_mode, f.stat().st_mtime_ns, f.stat().st_nlink, os.listxattr(f)) for f in files]
    shutil.rmtree(outside)
    equal(after, before, "host files after handles for reading were misused")


def forbidden_ports(net, gateway):
    """The host's port beside one that is allowed, by every name and every trick."""

    def run(t):
        came, stop = [], threading.Event()
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        # One number for both protocols, on all addresses, of both versions of IP where there are both.
        ports = []
        while len(ports) < 2:
            pair = [socket.socket(socket.AF_INET6, kind) for kind in kinds]
            try:
                pair[0].bind(("::", 0))
                pair[1].bind(("::", pair[0].getsockname()[1]))
                pair[0].listen(1000)
                ports.append(pair)
            except OSError:
                [s.close() for s in pair]
        numbers = [pair[0].getsockname()[1] for pair in ports]

        def listen(stream, datagrams, forbidden):
            stream.settimeout(0.05)
            datagrams.settimeout(0.05)
            while not stop.is_set():
                for take in (stream.accept, lambda: datagrams.recv(100)):
                    with contextlib.suppress(TimeoutError, OSError):
                        got = take()
                        if forbidden:
                            came.append(got)

        threads = [threading.Thread(target=listen, args=[*pair, i == 1], daemon=True) for i, pair in enumerate(ports)]
        [thread.start() for thread in threads]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(("192.0.2.254", 9))
            own = s.getsockname()[0]
        try:
            shutil.copy(Settings.built / "abuse" / "egress", t.dir)
            script = f": NOMINA_ABUSE; ./egress {numbers[0]} {numbers[1]} {own} {gateway}; echo code $?; sh -c 'echo still alive'"
            opts = ["--net", net, "--allow", "*", "--allow", f"127.0.0.1:{numbers[0]}", "--env", "NOMINA_ABUSE_INSIDE=1"]
            r = t.sh(script, opts, timeout=80)
            r.has("goes on", "done", "code 0", "still alive").lacks("ESCAPED", "panicked")
            time.sleep(0.3)
            equal(came, [], "what came to the forbidden port")
        finally:
            stop.set()
            [thread.join() for thread in threads]
            [s.close() for pair in ports for s in pair]

    return run


case(timeout=90, name="abuse.forbidden_ports_of_the_host")(forbidden_ports("user", "10.0.2.2"))
case(timeout=90, name="abuse.forbidden_ports_under_the_hosts_addresses")(forbidden_ports("host", "127.0.0.1"))
