"""Makes groups, moves processes and reads files below the root of a cgroup2 hierarchy, and prints what comes of it.

    python3 sequence.py /sys/fs/cgroup

As root on a host this tells what the kernel answers (sequence.expected); inside it must be the same.
"""

import ctypes
import errno
import os
import struct
import subprocess
import sys

R = sys.argv[1]
T = "nomina-test"


def t(label, f):
    try:
        result = f()
    except OSError as e:
        result = errno.errorcode[e.errno]
    print(label, "" if result is None else result)


def rd(path):
    with open(f"{R}/{path}") as f:
        return f.read().strip().replace("\n", "|")


def wr(path, text):
    fd = os.open(f"{R}/{path}", os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def m(path):
    os.mkdir(f"{R}/{path}", 0o755)


def rm(path):
    os.rmdir(f"{R}/{path}")


def child():
    return subprocess.Popen(["sleep", "100"])


def into(cgroup):
    """A child born in a group: clone3 with CLONE_INTO_CGROUP."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY) if isinstance(cgroup, str) else cgroup
    r, w = os.pipe()
    args = struct.pack("11Q", 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, fd)
    libc = ctypes.CDLL(None, use_errno=True)
    pid = libc.syscall(435, args, len(args))
    if pid == 0:
        os.write(w, open("/proc/self/cgroup").read().split("0::")[-1].encode())
        os._exit(0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    os.waitpid(pid, 0)
    return os.read(r, 100).decode().strip()


t("mkdir", lambda: m(T))
t("again", lambda: m(T))
t("nl", lambda: m(T + "/a\nb"))
t("file", lambda: m(T + "/cgroup.procs"))
t("unlink", lambda: os.unlink(f"{R}/{T}/cgroup.procs"))
t("create", lambda: os.close(os.open(f"{R}/{T}/f", os.O_CREAT|os.O_WRONLY)))
t("rename", lambda: os.rename(f"{R}/{T}", f"{R}/{T}x"))
t("symlink", lambda: os.symlink("x", f"{R}/{T}/l"))
t("mknod", lambda: os.mkfifo(f"{R}/{T}/l"))
t("rmfile", lambda: rm(T + "/cgroup.procs"))
t("read kill", lambda: rd(T + "/cgroup.kill"))
t("write ctl", lambda: wr(T + "/cgroup.controllers", "x"))
for x in ["a", "b", "a/c", "a/d"]:
    t("mkdir", lambda: m(T + "/" + x))
t("type", lambda: [rd(T + "/" + x + "/cgroup.type") for x in [".","a","b","a/c"]])
p = child()
q = child()
for s in ["x", "-1", "", "99999999", "0x%x" % p.pid, f" {p.pid}\n", "1 2"]:
    t("procs", lambda: wr(T + "/a/c/cgroup.procs", s))
t("where", lambda: open(f"/proc/{p.pid}/cgroup").read().strip().split("0::")[-1])
t("procs", lambda: rd(T + "/a/c/cgroup.procs") == str(p.pid))
t("events", lambda: [rd(T + "/" + x + "/cgroup.events") for x in [".","a","b","a/c"]])
t("rmdir", lambda: rm(T + "/a/c"))
t("rmdir", lambda: rm(T + "/a"))
t("sub", lambda: wr(T + "/cgroup.subtree_control", "+nothing"))
t("sub", lambda: wr(T + "/cgroup.subtree_control", "pids"))
t("sub", lambda: wr(T + "/cgroup.subtree_control", ""))
t("type", lambda: wr(T + "/a/c/cgroup.type", "threaded"))
t("type", lambda: wr(T + "/a/d/cgroup.type", "domain"))
t("type", lambda: wr(T + "/a/d/cgroup.type", "threaded"))
t("type", lambda: wr(T + "/b/cgroup.type", "threaded\n"))
t("type", lambda: [rd(T + "/" + x + "/cgroup.type") for x in [".","a","b","a/c","a/d"]])
t("move to threaded", lambda: wr(T + "/b/cgroup.procs", str(q.pid)))
t("thread", lambda: wr(T + "/b/cgroup.threads", str(q.pid)))
t("domain", lambda: wr(T + "/cgroup.procs", str(q.pid)))
t("thread", lambda: wr(T + "/b/cgroup.threads", str(q.pid)))
t("procs of threaded", lambda: rd(T + "/b/cgroup.procs"))
t("threads", lambda: rd(T + "/b/cgroup.threads") == str(q.pid))
t("procs", lambda: rd(T + "/cgroup.procs") == str(q.pid))
t("type", lambda: [rd(T + "/" + x + "/cgroup.type") for x in [".","a","b","a/c","a/d"]])
t("into", lambda: into(f"{R}/{T}/a"))
t("into file", lambda: into(os.open(f"{R}/{T}/a/cgroup.procs", os.O_RDONLY)))
t("into other", lambda: into("/proc"))
t("into none", lambda: into(999))
t("depth", lambda: wr(T + "/a/cgroup.max.depth", "1"))
t("mkdir", lambda: m(T + "/a/d/e"))
t("desc", lambda: wr(T + "/a/cgroup.max.descendants", "2"))
t("mkdir", lambda: m(T + "/a/e"))
for s in ["-1", "max", "x", "99999999999"]:
    t("depth", lambda: wr(T + "/a/cgroup.max.depth", s))
t("stat", lambda: [l for l in rd(T + "/cgroup.stat").split("|") if "subsys" not in l])
t("chmod", lambda: os.chmod(f"{R}/{T}/a/cgroup.procs", 0o600))
t("chown", lambda: os.chown(f"{R}/{T}/b", 1000, 1000))
t("st", lambda: oct(os.stat(f"{R}/{T}/a/cgroup.procs").st_mode))
t("st", lambda: os.stat(f"{R}/{T}/b").st_uid)
t("nlink", lambda: os.stat(f"{R}/{T}/a").st_nlink)
t("xattr", lambda: os.setxattr(f"{R}/{T}/b", "user.x", b"1"))
t("xattr", lambda: os.getxattr(f"{R}/{T}/b", "user.x"))
t("xattr", lambda: os.listxattr(f"{R}/{T}/b"))
t("xattr", lambda: os.removexattr(f"{R}/{T}/b", "user.y"))
for s in ["0", "2", "x", "1"]:
    t("kill", lambda: wr(T + "/a/cgroup.kill", s))
t("wait", lambda: p.wait(5))
t("events", lambda: rd(T + "/a/cgroup.events"))
t("kill threaded", lambda: wr(T + "/b/cgroup.kill", "1"))
d = os.open(f"{R}/{T}/a/c", os.O_RDONLY)
f = os.open(f"{R}/{T}/a/c/cgroup.procs", os.O_RDWR)
t("rmdir", lambda: rm(T + "/a/c"))
t("rmdir", lambda: rm(T + "/a/c"))
t("stat dying", lambda: [l for l in rd(T + "/cgroup.stat").split("|") if "subsys" not in l][0])
t("write dead", lambda: os.write(f, b"0"))
t("list dead", lambda: os.listdir(d))
t("mkdir dead", lambda: os.mkdir("x", dir_fd=d))
t("open dead", lambda: os.close(os.open("cgroup.procs", os.O_RDONLY, dir_fd=d)))
os.close(d)
os.close(f)
q.kill()
q.wait()
for x in ["a/d", "a", "b", "."]:
    t("rmdir", lambda: os.rmdir(f"{R}/{T}/{x}" if x != "." else f"{R}/{T}"))
