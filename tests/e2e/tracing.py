"""strace and gdb on guests: what they see is the guest's, not the shim's."""

import difflib
import os
import re

from harness import case, check, equal

PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/wait.h>
int shared;
__attribute__((noinline)) int leaf(int x) { __atomic_add_fetch(&shared, x, 5); return x * 2; }
__attribute__((noinline)) int middle(int x) { int r = leaf(x); return r + 1; }
static void *run(void *a) { for (int i = 0; i < 3; i++) { middle((long)a); usleep(1000); } return 0; }
int main(int argc, char **argv)
{
	pthread_t t[3];
	for (long i = 0; i < 3; i++) pthread_create(&t[i], 0, run, (void *)(i + 1));
	for (int i = 0; i < 3; i++) pthread_join(t[i], 0);
	int p = fork(), status;
	if (!p) { leaf(100); _exit(7); }
	waitpid(p, &status, 0);
	printf("shared %d child %d\n", shared, WEXITSTATUS(status));
	fflush(stdout);
	if (argc > 1) *(volatile int *)(long)(argc - 2) = 1;
	return 0;
}
"""


def program(t):
    t.write("p.c", PROGRAM)
    t.native(["gcc", "-g", "-O0", "-pthread", "-o", "p", "p.c"]).ok()


def gdb(t, commands, rest="./p", timeout=60):
    t.write("commands", "\n".join(["set pagination off", "set confirm off", *commands]) + "\n")
    return t.sh(f"gdb -nx -q -batch -x commands {rest} 2>&1", timeout=timeout)


def told(text):
    """What strace -f wrote, by process, with numbers, addresses and times taken out."""
    names, found, unfinished = {}, {}, {}
    for line in text.splitlines():
        names.setdefault(line.split(" ")[0], f"P{len(names)}")
    number = rf"(= |si_pid=|kill\()({'|'.join(names)})\b(?! )"
    for line in text.splitlines():
        pid, _, what = line.partition(" ")
        what, name = what.strip(), names[pid]
        if what.endswith("<unfinished ...>"):
            unfinished[pid] = what.removesuffix("<unfinished ...>").rstrip()
            continue
        if m := re.match(r"<\.\.\. \w+ resumed>(.*)", what):
            what = unfinished.pop(pid, "") + m.group(1)
        what = re.sub(r"0x[0-9a-f]{4,}", "ADDRESS", what)
        what = re.sub(number, lambda m: m.group(1) + names[m.group(2)], what)
        what = re.sub(r"(st_ino|tv_n?sec|si_[us]time|st_size|si_uid)=\w+", r"\1", what)
        what = re.sub(r"/\* \d+ vars \*/|GRND_NONBLOCK.*|\"\\x\w.*", "", what)
        # When a child's signal comes is its own affair.
        if "SIGCHLD {si" in what or "rt_sigreturn" in what:
            continue
        found.setdefault(name, []).append(re.sub(r"\s+", " ", what).replace(", [", ",[").replace(", ~[", ",~["))
    return found


@case(timeout=90)
def strace_tells_what_it_tells_natively(t):
    t.write("s.sh", "trap 'echo got' USR1\nkill -USR1 $$\ncat /etc/hostname > /dev/null\n(exit 3)\nread x < /etc/hostname\nulimit -c 0\nsh -c 'kill -SEGV $$'\n")
    trace = "strace -f -o OUT -e trace='!brk,getppid,getpid,newfstatat,stat,getrandom,readlink,mmap,munmap,mprotect,pread64' sh s.sh"
    env = "env -i PATH=/usr/bin:/bin"
    inside = t.sh(f"{env} {trace.replace('OUT', 'inside.txt')}; echo ==; cat inside.txt", ["--user", f"{os.getuid()}:{os.getgid()}"], timeout=60).has("got\n")
    t.native(["sh", "-c", f"{env} {trace.replace('OUT', 'native.txt')}"]).has("got\n")
    native, inside = told((t.dir / "native.txt").read_text()), told(inside.out.split("==\n", 1)[1])
    equal(sorted(map(len, native.values())), sorted(map(len, inside.values())))
    for name, lines in native.items():
        diff = "\n".join(difflib.unified_diff(lines, inside.get(name, []), "native", "inside", lineterm="", n=1))
        check(not diff, diff)


@case(timeout=120)
def strace_counts_the_calls_of_a_build(t):
    (t.dir / "src").mkdir()
    for i in range(6):
        t.write(f"src/f{i}.c", f"int f{i}(void) {{ return {i}; }}\n")
    t.write("src/main.c", "int main(void) { return 0; }\n")
    t.write("src/Makefile", "OBJ := $(patsubst %.c,%.o,$(wildcard *.c))\nprog: $(OBJ)\n\tgcc -o $@ $^\n")
    r = t.sh("cd src && strace -f -c -o ../counts make -j2 && ./prog && cat ../counts", timeout=110).ok()
    r.has("execve", "vfork", "wait4", "total")
    calls = {w[-1]: int(w[3]) for w in map(str.split, r.out.splitlines()) if len(w) in (5, 6) and w[3].isdigit()}
    check(calls.get("execve", 0) >= 20, r.out)


@case(timeout=60)
def strace_attaches_to_a_running_process_and_leaves_it(t):
    r = t.sh("""
(while :; do sleep 0.05; done) & p=$!
sleep 0.2; timeout 1 strace -f -o o -p $p; grep -c clone o; grep -q TracerPid:.0 /proc/$p/status && echo free
kill $p; wait $p; echo ended $?""", timeout=40)
    r.has("free", "ended 143")
    check(int(r.out.split()[0]) > 1, r.describe())


@case(timeout=90)
def gdb_stops_in_threads_and_walks(t):
    program(t)
    r = gdb(t, ["break leaf", "run", "bt", "info threads", "print x", "set scheduler-locking on", "finish", "set scheduler-locking off", "delete",
                "break middle", "continue", "step", "next", "info registers rip", "delete", "continue"])
    r.has("Breakpoint 1, leaf (x=", "in middle (x=", "in run (a=", "Value returned is $", "Thread debugging using libthread_db",
          "shared 18 child 7", "exited normally")
    check(len(re.findall(r"^[* ] +\d+ +Thread", r.out, re.M)) >= 2, r.out)


@case(timeout=90)
def gdb_follows_a_child_catches_calls_and_watches(t):
    program(t)
    r = gdb(t, ["set follow-fork-mode child", "break leaf if x == 100", "run", "bt", "continue"])
    r.has("leaf (x=100)", "in main (argc=1", "exited with code 07")
    r = gdb(t, ["catch syscall wait4", "run", "print $orig_rax", "continue", "continue"])
    r.has("(call to syscall wait4)", "$1 = 61", "(returned from syscall wait4)", "shared 18 child 7")
    r = gdb(t, ["set can-use-hw-watchpoints 0", "break leaf if x == 2", "run", "set scheduler-locking on", "watch shared", "continue"])
    r.has("Watchpoint 2: shared", "Old value = ", "New value = ")
    r = gdb(t, ["set var $x = 1", "catch exec", "run", "print $_siginfo.si_signo", "continue"], "--args sh -c 'exec true'")
    r.has("Catchpoint 1 (exec'd", "exited normally")


@case(timeout=60)
def gdb_diagnoses_a_crash(t):
    program(t)
    r = gdb(t, ["run", "bt", "print $_siginfo._sifields._sigfault.si_addr", "info registers rip", "kill"], "--args ./p crash")
    r.has("received signal SIGSEGV", "in main (argc=2", "$1 = (void *) 0x0", "<main+", "killed")


@case(timeout=60)
def gdb_attaches_changes_memory_and_detaches(t):
    t.write("q.c", "#include <unistd.h>\nvolatile int go;\nint main(void) { while (!go) usleep(1000); return go; }\n")
    t.native(["gcc", "-g", "-O0", "-o", "q", "q.c"]).ok()
    r = t.sh("./q & p=$!; sleep 0.1; gdb -nx -q -batch -p $p -ex 'bt -1' -ex 'set var go = 42' -ex detach 2>&1; wait $p; echo ended $?", timeout=40)
    r.has("main () at q.c:3", "ended 42")
    r = t.sh("sleep 0.6 & p=$!; gdb -nx -q -batch -p $p -ex bt 2>&1 | grep -c sleep; wait $p; echo ended $?", timeout=40)
    r.has("ended 0")


@case(timeout=60)
def an_ordinary_user_traces_his_own_only(t):
    r = t.sh("""
sleep 5 & root=$!
setpriv --reuid 1000 --regid 1000 --clear-groups strace -o /dev/null true; echo own $?
setpriv --reuid 1000 --regid 1000 --clear-groups strace -o /dev/null -p $root 2>&1; echo other $?
kill $root""", timeout=40)
    r.has("own 0", "other 1", "Operation not permitted")
