"""The command line: what a sandbox shows of itself, options, streams and exit codes."""

import hashlib
import json
import os
import re
import signal
import time

from harness import Settings, case, check, equal


@case()
def a_shell_sees_a_system_of_its_own(t):
    r = t.sh("hostname box; hostname; id -un; echo $$; ps ax; ls -l /proc/self/ns").ok()
    ls = r.lines()
    equal(ls[:3], ["box", "root", "1"], "host name, user, pid")
    ps = [l for l in ls if re.match(r"\s*\d+ ", l)]
    check(2 <= len(ps) <= 4, f"ps shows only the sandbox's own processes: {r.describe()}")
    for ns in ("uts", "pid", "mnt", "user"):
        m = re.search(rf"{ns} -> '?({ns}:\[\d+\])", r.out)
        check(m, f"no identifier of the {ns} namespace: {r.describe()}")
        check(m.group(1) != os.readlink(f"/proc/self/ns/{ns}"), f"{ns} is the host's")
    equal(t.native(["hostname"]).out == "box\n", False, "host name of the host changed")


@case()
def exit_codes_are_the_programs_or_say_what_failed(t):
    t.write("noexec", "not a program\n", 0o644)
    t.run(["true"]).ok(0)
    t.sh("exit 3").ok(3)
    t.run(["false"]).ok(1)
    t.run(["/nonexistent/program"]).ok(127)
    t.run(["no-such-program-in-path"]).ok(127)
    t.run(["./noexec"]).ok(126)
    t.run(["/etc"]).ok(126)
    t.sh("sh -c 'kill -TERM $$'; echo code $?").has("code 143")
    t.native([*Settings.lockdown, Settings.nomina, "run", "--no-such-option"]).ok(125)
    t.run(["true"], ["--bind", "/nonexistent/source:/mnt"]).ok(125)
    t.run(["true"], ["--workdir", "/nonexistent/place"]).ok(125)


@case()
def a_program_ended_by_a_signal_gives_128_plus_n(t):
    """Not PID 1 itself, which its own signals do not reach, but a command ended from outside."""
    p = t.spawn(t.argv(["sleep", "100"]))
    time.sleep(0.5)
    p.send_signal(signal.SIGTERM)
    code = p.wait(10)
    check(code in (143, -15), f"exit code {code}")


@case()
def streams_pass_through(t):
    data = bytes(range(256)) * 4096
    r = t.run(["sha256sum"], input=data).ok()
    r.has(hashlib.sha256(data).hexdigest())
    r = t.sh("cat; echo err >&2; exit 4", input="through\n").ok(4)
    equal((r.out, r.err), ("through\n", "err\n"))
    r = t.run(["cat"]).ok()
    equal(r.out, "")


@case()
def big_outputs_arrive_whole(t):
    r = t.sh("seq 1 400000 | md5sum; seq 1 400000").ok()
    equal(len(r.lines()), 400001)
    r.has(hashlib.md5("".join(f"{i}\n" for i in range(1, 400001)).encode()).hexdigest())
    p = t.spawn(["bash", "-c", " ".join(map(str, t.argv(["yes"]))) + " | head -c 50000000 | wc -c"])
    equal(p.communicate(timeout=t.left(30))[0].strip(), b"50000000")


@case()
def the_callers_directory_is_seen_and_kept_as_it_was(t):
    t.write("here", "original\n")
    r = t.sh("cat here; echo changed > here; cat here; echo new > new; rm -f gone; ls; pwd").ok()
    equal(r.lines()[:2], ["original", "changed"])
    equal((t.dir / "here").read_text(), "original\n", "copy-on-write reached the host")
    check(not (t.dir / "new").exists(), "a new file reached the host")
    equal(r.lines()[-1], str(t.dir))


@case()
def rw_writes_through(t):
    t.write("here", "original\n")
    t.sh("echo changed > here; mkdir d; echo new > d/new; ln -s new d/link; mv here there; chmod 600 d/new", ["--rw", "."]).ok()
    equal((t.dir / "there").read_text(), "changed\n")
    equal((t.dir / "d/link").resolve().read_text(), "new\n")
    check(not (t.dir / "here").exists(), "renamed")
    equal((t.dir / "d/new").stat().st_mode & 0o777, 0o600)
    equal((t.dir / "d/new").stat().st_uid, os.getuid())


@case()
def written_through_files_take_no_set_id_bits_and_no_foreign_owners(t):
    """What the host cannot hold for an ordinary user is refused, never pretended."""
    r = t.sh("touch f; chmod 4755 f; chmod 1755 f; chown 12:34 f; mknod n c 1 3; stat -c '%a %u' f; ls n", ["--rw", "."])
    equal((t.dir / "f").stat().st_mode & 0o7777, 0o1755)
    equal((t.dir / "f").stat().st_uid, os.getuid())
    check(not (t.dir / "n").exists() or (t.dir / "n").is_file(), "a device node on the host")
    check("not permitted" in r.err, r.describe())


@case()
def the_system_below_is_never_written(t):
    r = t.sh("echo hacked >> /etc/passwd && tail -1 /etc/passwd; rm /etc/hostname; echo x > /usr/bin/x; rm -rf /usr/share/doc; ls /usr/share/doc 2>&1 | head -1").ok()
    r.has("hacked")
    check("hacked" not in open("/etc/passwd").read(), "host changed")
    check(os.path.isdir("/usr/share/doc"), "host changed")


@case()
def keep_and_upper_carry_changes_over(t):
    layer = t.dir / "layer"
    t.sh("echo kept > /root/note; chown 12:34 /root/note; rm /etc/hostname; mkdir /srv/x; mknod /srv/null c 1 3", ["--keep", layer]).ok()
    check(layer.is_dir(), "--keep left a directory")
    r = t.sh("cat /root/note; stat -c %u:%g /root/note; ls /etc/hostname; stat -c '%F %t:%T' /srv/null; echo more >> /root/note", ["--upper", layer])
    r.has("kept", "12:34", "character special file 1:3")
    check("No such file" in r.err, "a removed file is back")
    t.sh("cat /root/note", ["--upper", layer]).ok().has("kept\nmore")
    check(t.sh("cat /root/note").code != 0, "a sandbox without the layer sees it")


@case()
def binds_and_tmpfs(t):
    src = t.dir / "src"
    src.mkdir()
    (src / "f").write_text("bound\n")
    t.sh("cat /mnt/f; echo w > /mnt/w", ["--bind", f"{src}:/mnt"]).ok().has("bound")
    equal((src / "w").read_text(), "w\n", "a bind is written through")
    r = t.sh("cat /mnt/f; echo w > /mnt/w2", ["--bind", f"{src}:/mnt:ro"])
    check(r.code != 0 and "Read-only" in r.err, r.describe())
    check(not (src / "w2").exists(), "read-only bind was written")
    r = t.sh("echo x > /mnt/x; ls -A /mnt; stat -f -c %T /mnt; grep ' /mnt ' /proc/mounts", ["--tmpfs", "/mnt"]).ok()
    equal(r.lines()[:2], ["x", "tmpfs"])
    t.sh("cat %s" % (src / "f"), ["--bind", src]).ok().has("bound")


@case()
def environment_workdir_hostname_user(t):
    env = {**os.environ, "PASSED": "on"}
    t.sh("echo $PASSED $ADDED", ["--env", "ADDED=two words"], env=env).ok().has("on two words")
    r = t.run(["env"], ["--clear-env", "--env", "ONLY=1"], env=env).ok()
    r.has("ONLY=1").lacks("PASSED")
    t.run(["pwd"], ["--workdir", "/usr/lib"]).ok().has("/usr/lib\n")
    t.run(["hostname"], ["--hostname", "named"]).ok().has("named\n")
    r = t.sh("id -u; id -g; grep CapEff /proc/self/status; cat /etc/shadow", ["--user", "1234:567"])
    equal(r.lines()[:3], ["1234", "567", "CapEff:\t0000000000000000"])
    check(r.code != 0, "an ordinary user inside reads /etc/shadow")
    r = t.sh("id -u; grep CapEff /proc/self/status").ok()
    equal(r.lines()[0], "0")
    check(int(r.lines()[1].split()[1], 16) & (1 << 21), "root inside lacks CAP_SYS_ADMIN")


@case()
def homes_and_secrets_are_not_there(t):
    home = os.path.expanduser("~")
    secret = os.path.join(home, ".nomina-secret-basic")
    with open(secret, "w") as f:
        f.write("token-5f2c")
    try:
        r = t.sh(f"cat {secret}; ls -A {home}; cat /proc/1/root{secret}", [])
        r.lacks("token-5f2c")
    finally:
        os.unlink(secret)


@case()
def doctor_and_syscalls_tell(t):
    r = t.native([*Settings.lockdown, Settings.nomina, "doctor"])
    r.has("seccomp", "Landlock")
    r = t.native([*Settings.lockdown, Settings.nomina, "syscalls", "--json"]).ok()
    table = json.loads(r.out)
    check(len(table) > 330 or any(isinstance(v, list) and len(v) > 330 for v in (table.values() if isinstance(table, dict) else [])), "the table has a row for every call")
    t.native([*Settings.lockdown, Settings.nomina, "syscalls"]).ok().has("openat", "io_uring_setup")
    t.native([*Settings.lockdown, Settings.nomina, "--help"]).ok().has("run", "doctor")
    t.native([*Settings.lockdown, Settings.nomina, "run", "--help"]).ok().has("--bind", "--upper", "--rw")


@case(timeout=120)
def many_sandboxes_at_once(t):
    ps = [t.spawn(t.argv(["sh", "-c", f"hostname h{i}; sleep 0.5; hostname; echo $$"])) for i in range(20)]
    for i, p in enumerate(ps):
        out, err = p.communicate(timeout=t.left(60))
        equal(out.decode(), f"h{i}\n1\n", err.decode())


@case()
def another_root_directory(t):
    """--root with a tree of busybox alone."""
    root = t.dir / "root"
    (root / "bin").mkdir(parents=True)
    t.native(["cp", "/bin/busybox", root / "bin/busybox"]).ok()
    t.native([root / "bin/busybox", "--install", "-s", root / "bin"])
    for applet in ("sh", "ls", "id", "cat"):
        link = root / "bin" / applet
        if link.is_symlink() or link.exists():
            link.unlink()
        link.symlink_to("busybox")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    r = t.run(["/bin/sh", "-c", "ls /; id -un; cat /etc/passwd; echo x > /etc/new; cat /etc/new; ls /usr"], ["--root", root, "--workdir", "/"])
    r.has("bin", "etc", "root:x:0:0", "x\n")
    check(not (root / "etc/new").exists(), "--root without --rw was written")
