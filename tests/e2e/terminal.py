"""An interactive bash in a terminal, driven through tmux."""

import os
import re
import subprocess
import time

from harness import Settings, case, check, wait_until


class Tmux:
    def __init__(self, t, command, opts=(), inside=True):
        self.t = t
        # A short name: the path of a socket has 108 bytes.
        self.name = f"/tmp/nomina-{os.getpid()}-{t.dir.name[-8:]}"
        self.env = {**os.environ, "TERM": "screen", "LANG": "C.UTF-8", "PS1": "$ "}
        self.env.pop("TMUX", None)
        quoted = " ".join("'" + str(a).replace("'", "'\\''") + "'" for a in (t.argv(command, opts) if inside else command))
        self.call("new-session", "-d", "-x", "100", "-y", "30", "-c", str(t.dir), quoted + "; echo ended $?; sleep 1000")
        self.call("set-option", "-g", "status", "off")

    def call(self, *args):
        r = subprocess.run(["tmux", "-S", self.name, "-f", "/dev/null", *args], env=self.env, capture_output=True, text=True, timeout=20)
        check(r.returncode == 0, f"tmux {args}: {r.stderr}")
        return r.stdout

    def keys(self, *keys):
        self.call("send-keys", *keys)

    def line(self, text):
        self.call("send-keys", "-l", text)
        self.call("send-keys", "Enter")

    def screen(self):
        return self.call("capture-pane", "-p")

    def expect(self, text, timeout=15):
        try:
            wait_until(lambda: text in self.screen(), timeout)
        except Exception:
            check(False, f"{text!r} is not on the screen:\n{self.screen()}")

    def close(self):
        subprocess.run(["tmux", "-S", self.name, "kill-server"], env=self.env, capture_output=True, timeout=20)


def in_tmux(f):
    def run(t):
        tm = Tmux(t, ["bash", "--norc", "-i"], ["--env", "PS1=ready> ", "--env", "TERM=screen"])
        try:
            tm.expect("ready>")
            f(t, tm)
        finally:
            tm.close()

    run.__name__, run.__module__, run.__doc__ = f.__name__, f.__module__, f.__doc__
    return run


@case(timeout=90)
@in_tmux
def ctrl_c_interrupts_the_foreground(t, tm):
    tm.line("sleep 1000; echo code $?")
    time.sleep(0.7)
    tm.keys("C-c")
    time.sleep(0.3)
    tm.line("echo still $((40 + 2))")
    tm.expect("still 42")
    tm.line("cat")
    time.sleep(0.3)
    tm.keys("C-d")
    tm.line("tty; stty size; echo A$?A")
    tm.expect("A0A")
    check("/dev/pts/" in tm.screen() or "/dev/tty" in tm.screen(), tm.screen())
    check("no job control" not in tm.screen(), tm.screen())


@case(timeout=90)
@in_tmux
def ctrl_z_stops_and_fg_and_bg_continue(t, tm):
    tm.line("sleep 1000")
    time.sleep(0.7)
    tm.keys("C-z")
    tm.expect("Stopped")
    tm.line("jobs; echo J$(jobs | wc -l)J")
    tm.expect("J1J")
    tm.line("bg")
    tm.expect("&")
    tm.line("ps -o stat= -C sleep")
    time.sleep(0.3)
    tm.line("fg")
    time.sleep(0.5)
    tm.keys("C-z")
    tm.line("kill %1; wait; echo K$(jobs -r | wc -l)K")
    tm.expect("K0K")
    tm.line("(sleep 0.3; echo from background) &")
    tm.expect("from background")
    tm.line("cat | cat")
    time.sleep(0.3)
    tm.keys("C-z")
    time.sleep(0.3)
    tm.line("fg")
    time.sleep(0.3)
    tm.line("typed")
    time.sleep(0.3)
    check(tm.screen().count("typed") >= 2, tm.screen())
    tm.keys("C-c")
    tm.line("exit 7")
    tm.expect("ended 7")


@case(timeout=90)
@in_tmux
def a_new_window_size_arrives(t, tm):
    tm.line("trap 'echo WINCH' WINCH; stty size")
    tm.expect("30 100")
    tm.call("resize-window", "-x", "80", "-y", "20")
    time.sleep(0.5)
    tm.line("stty size")
    tm.expect("20 80")


@case(timeout=90)
@in_tmux
def vim_edits_and_less_pages(t, tm):
    tm.line("clear; vim -u NONE -N /tmp/file")
    tm.expect("~")
    tm.keys("i")
    tm.call("send-keys", "-l", "typed in vim")
    tm.keys("Escape")
    time.sleep(0.3)
    tm.line(":wq")
    time.sleep(0.5)
    tm.line("clear; cat /tmp/file; seq 200 > /tmp/n")
    tm.expect("typed in vim")
    tm.line("less /tmp/n")
    tm.expect("/tmp/n")
    tm.keys("G")
    tm.expect("200")
    tm.line("/^77$")
    tm.expect("77")
    tm.keys("q")
    tm.line("clear; echo back $((1 + 1))")
    tm.expect("back 2")
    tm.line("clear; vim -u NONE -N /tmp/file")
    tm.expect("typed in vim")
    tm.keys("C-z")
    tm.expect("Stopped")
    tm.line("fg")
    tm.expect("typed in vim")
    tm.line(":q")


@case(timeout=90)
@in_tmux
def nested_terminals_script_and_top(t, tm):
    tm.line("script -qc 'stty size; tty; echo in $((1 + 1)) script' /dev/null")
    tm.expect("in 2 script")
    tm.line("top -b -n 1 | head -1 | cut -c1-3; echo T$?T")
    tm.expect("T0T")
    tm.line("read -s -p 'secret: ' x; echo; echo got ${#x}")
    tm.expect("secret:")
    tm.line("hidden")
    tm.expect("got 6")
    check("hidden" not in tm.screen(), "echo was on")


@case(timeout=60)
@in_tmux
def the_terminal_hung_up_ends_the_sandbox(t, tm):
    tm.line("echo pid is $$; sleep 4242 &")
    tm.expect("pid is 1")
    tm.close()

    def gone():
        r = subprocess.run(["pgrep", "-u", str(os.getuid()), "-f", "sleep 4242"], capture_output=True)
        return r.returncode != 0

    wait_until(gone, 5, what="end of the guests after the terminal went away")


def in_outer_bash(f):
    """The user's own interactive bash; `nomina` is a command in it."""

    def run(t):
        tm = Tmux(t, ["env", "PS1=outer> ", "bash", "--norc", "-i"], inside=False)
        try:
            tm.expect("outer>")
            f(t, tm, " ".join(str(a) for a in t.argv([])))
        finally:
            tm.close()

    run.__name__, run.__module__, run.__doc__ = f.__name__, f.__module__, f.__doc__
    return run


@case(timeout=90)
@in_outer_bash
def a_sandbox_is_a_job_of_the_users_shell(t, tm, nomina):
    tm.line(nomina + " cat")
    time.sleep(1)
    tm.line("first")
    time.sleep(0.5)
    tm.keys("C-z")
    tm.expect("Stopped")
    tm.line("clear; bg")
    # It reads the terminal in the background.
    time.sleep(1)
    tm.line("jobs | grep -c Stop''ped; echo j''obs")
    tm.expect("jobs")
    check("1" in tm.screen().split("jobs")[-2], tm.screen())
    tm.line("fg")
    time.sleep(0.7)
    tm.line("second")
    time.sleep(0.5)
    check(tm.screen().count("second") == 2, tm.screen())
    tm.keys("C-d")
    time.sleep(0.5)
    tm.line("echo code A$?A")
    tm.expect("code A0A")
    tm.line(nomina + " sleep 100")
    time.sleep(1)
    tm.keys("C-c")
    time.sleep(0.5)
    tm.line("echo code B$?B")
    tm.expect("code B130B")


@case(timeout=90)
@in_outer_bash
def the_terminal_is_the_scripts_again_when_a_sandbox_has_ended(t, tm, nomina):
    tm.line(f"bash -c '{nomina} true; read -p prom\"\"pt: x; echo got-$x'")
    tm.expect("prompt:")
    tm.line("abc")
    tm.expect("got-abc")


@case(timeout=90)
@in_outer_bash
def the_others_of_a_pipeline_keep_the_terminal(t, tm, nomina):
    tm.line(f"{nomina} seq 500 | less")
    tm.expect("\n25\n")
    tm.keys("q")
    time.sleep(0.4)
    tm.line("clear; echo after le''ss")
    tm.expect("after less")


EXPECT = r"""
set timeout 15
set env(PS1) "ready> "
spawn bash --norc --noprofile
expect "ready> "
send "tty; echo A\$((1+1))B\r"
expect "A2B"
expect "ready> "
send "cat\r"
expect "cat"
sleep 1
send "typed\r"
expect "typed"
send "\003"
expect "ready> "
sleep 1
send "exit 3\r"
expect eof
catch wait r
puts "end [lindex $r 3]"
"""


@case(timeout=60)
def expect_talks_to_a_shell(t):
    (t.dir / "talk").write_text(EXPECT)
    t.run(["expect", "talk"]).ok().has("A2B", "typed", "end 3")


SCREEN = """
export SCREENDIR=$PWD/scr; mkdir -m 700 scr
screen -dmS here bash --norc
for i in $(seq 50); do screen -ls | grep -q here && break; sleep 0.1; done
sleep 0.5
screen -S here -X stuff 'echo in screen $((40 + 2)) > out; tty >> out
'
for i in $(seq 50); do grep -q pts out 2>/dev/null && break; sleep 0.1; done
cat out
screen -S here -X quit
for i in $(seq 50); do screen -ls | grep -q here || break; sleep 0.1; done
screen -ls | grep -c here
"""


@case(timeout=90)
def screen_keeps_a_shell(t):
    r = t.run(["bash", "-c", SCREEN])
    r.has("in screen 42", "/dev/pts/")
    check(r.lines()[-1] == "0", r.describe())


SSHD = r"""
mkdir -p /run/sshd /root/.ssh
chmod 700 /root/.ssh
for key in host .ssh/id_ed25519; do ssh-keygen -q -t ed25519 -N '' -f /root/$key; done
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
touch /root/.hushlogin
port=2222
if [ $1 = sshd ]; then
    /usr/sbin/sshd -D -e -p $port -o ListenAddress=127.0.0.1 -o HostKey=/root/host -o PidFile=none 2>log &
else
    dropbearkey -t ed25519 -f host >/dev/null 2>&1
    dropbear -F -E -r host -P none -p 127.0.0.1:$port 2>log &
fi
for i in $(seq 50); do (: </dev/tcp/127.0.0.1/$port) 2>/dev/null && break; sleep 0.1; done
s="ssh -p $port -o StrictHostKeyChecking=no -o LogLevel=ERROR 127.0.0.1"
$s 'echo plain $((40 + 2)); tty; exit 5' </dev/null; echo code $?
(sleep 1; printf 'stty size; ps -o tty=,stat=,comm= | grep ps; cat\n'; sleep 0.5; printf '\003'; sleep 0.5; printf 'exit 7\n'; sleep 0.3) |
    $s -tt 'env PS1=: bash --norc'; echo code $?
$s -tt 'sleep 4343' </dev/null &
sleep 0.7
kill $!
sleep 0.5
pgrep -x sleep || echo hung up
cat log >&2
kill %1
"""


def a_terminal_by_ssh(t, server):
    r = t.run(["bash", "-c", SSHD, "sh", server]).has("plain 42", "not a tty", "code 5", "^C", "code 7", "hung up")
    check(re.search(r"^pts/\d+ +R\+ +ps\s*$", r.out, re.M), r.describe())


@case(timeout=60)
def sshd_gives_a_terminal(t):
    """Its children change users, chroot, filter their system calls, and lead sessions on terminals that they open."""
    a_terminal_by_ssh(t, "sshd")


@case(timeout=60)
def dropbear_gives_a_terminal(t):
    a_terminal_by_ssh(t, "dropbear")


@case(timeout=60)
@in_tmux
def a_terminal_from_outside_cannot_be_watched(t, tm):
    """When somebody types is not the sandbox's to know, unless the terminal was made inside."""
    t.write("watch.py", """
import ctypes, os, pty
libc = ctypes.CDLL(None, use_errno=True)
notify = libc.inotify_init()
for fd in (0, pty.openpty()[1]):
    watch = libc.inotify_add_watch(notify, os.ttyname(fd).encode(), 0xfff)
    print("watched" if watch > 0 else os.strerror(ctypes.get_errno()))
""")
    tm.line("/usr/bin/python3 watch.py")
    tm.expect("Operation not supported\nwatched")
