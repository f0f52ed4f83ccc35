"""unshare, nested pid and uts namespaces, nsenter."""

import re

from harness import case, check, equal


@case()
def unshare_uts_is_private(t):
    r = t.sh("hostname outer; unshare --uts sh -c 'hostname inner; hostname; cat /proc/sys/kernel/hostname; uname -n'; hostname").ok()
    equal(r.lines(), ["inner", "inner", "inner", "outer"])


@case()
def unshare_pid_fork_starts_at_one(t):
    r = t.sh("unshare --pid --fork sh -c 'echo $$; sh -c \"echo \\$\\$\"; sleep 0.1 & echo $!; wait'").ok()
    equal(r.lines()[0], "1")
    check(all(int(l) < 10 for l in r.lines()), r.describe())


@case()
def three_deep_names_and_numbers_are_right_at_every_level(t):
    t.write("deep.sh", r"""
level=$1; hostname "level$level"
echo "L$level pid $$ host $(hostname)"
if [ "$level" -lt 3 ]; then unshare --uts --pid --fork sh ./deep.sh $((level + 1)) & wait $!; fi
echo "L$level after $(hostname)"
""", 0o755)
    r = t.sh("sh ./deep.sh 0; hostname").ok()
    for i in range(1, 4):
        r.has(f"L{i} pid 1 host level{i}", f"L{i} after level{i}")
    r.has("L0 after level0")


@case()
def the_outer_level_sees_inner_processes_by_its_own_numbers(t):
    r = t.sh(r"""
unshare --pid --fork sh -c 'sleep 30 & wait' & sleep 0.5
p=$(pgrep -x sleep); echo "outer sees $p"; grep NSpid /proc/$p/status
readlink /proc/$p/ns/pid; readlink /proc/self/ns/pid
kill -KILL $p; wait; echo done
""").ok()
    m = re.search(r"NSpid:\s+(\d+)\s+(\d+)", r.out)
    check(m and m.group(1) != m.group(2), r.describe())
    check(r.lines()[2] != r.lines()[3], "same namespace identifier: " + r.describe())
    r.has("done")


@case()
def nsenter_goes_back_in(t):
    r = t.sh(r"""
unshare --uts --pid --fork sh -c 'hostname kept; touch /tmp/up; sleep 30 & wait' &
while [ ! -e /tmp/up ]; do sleep 0.05; done; sleep 0.2
p=$(pgrep -x sleep)
nsenter --target $p --uts hostname
nsenter --target $p --uts --pid sh -c 'hostname; echo $$; kill -0 1 && echo init is there'
nsenter --uts=/proc/$p/ns/uts hostname
hostname; kill $p; wait
""", ["--hostname", "outside"]).ok()
    equal(r.lines()[:2], ["kept", "kept"])
    check(2 <= int(r.lines()[2]) < 50, r.describe())
    equal(r.lines()[3:6], ["init is there", "kept", "outside"])


@case()
def the_end_of_init_ends_its_namespace(t):
    r = t.sh(r"""
unshare --pid --fork --kill-child sh -c 'sleep 100 & sleep 101 & sleep 102 & touch /tmp/up; wait' &
while [ ! -e /tmp/up ]; do sleep 0.05; done; sleep 0.2
pgrep -c -x sleep
kill -KILL $(pgrep -P $!); sleep 0.5
pgrep -c -x sleep
""")
    equal(r.lines()[:2], ["3", "0"])


@case()
def lsns_shows_them(t):
    r = t.sh("unshare --uts sleep 5 & sleep 0.3; lsns -t uts -n -o NS,NPROCS | wc -l; kill %1").ok()
    equal(r.lines()[0], "2")


@case()
def an_unprivileged_user_inside_may_not(t):
    r = t.sh("unshare --uts true 2>&1; unshare --pid --fork true 2>&1; hostname x 2>&1", ["--user", "1000:1000"])
    equal(sum("not permitted" in l or "permission" in l or "must be root" in l for l in r.lines()), 3, r.describe())


@case()
def a_new_network_namespace_has_its_own_lo_that_is_down(t):
    r = t.sh(r"""
unshare -n sh -c 'ip -o link; ip -o addr | wc -l; python3 -c "
import fcntl, socket, struct
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
flags = lambda: struct.unpack_from(\"H\", fcntl.ioctl(s, 0x8913, b\"lo\".ljust(40, b\"\\0\")), 16)[0]
print(flags() & 1); fcntl.ioctl(s, 0x8914, struct.pack(\"16sH22x\", b\"lo\", flags() | 1)); print(flags() & 1)
n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); n.bind((0, 0)); print(n.getsockname()[0] > 0)
"; ip -o addr | cut -c1-40'
ip -o addr | wc -l
""").ok()
    out = r.lines()
    check(out[0].startswith("1: lo: <LOOPBACK> mtu 65536"), r.describe())
    equal(out[1:5], ["0", "0", "1", "True"])
    check("127.0.0.1/8" in out[5] and "::1/128" in out[6], r.describe())
    # That of the first namespace is up.
    equal(out[7], "2")


@case()
def bubblewrap_unshares_everything(t):
    r = t.sh(r"""
bwrap --bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-all --hostname inner --die-with-parent sh -c 'hostname; echo $$; ls -A /tmp | wc -l; ip -o -4 addr | cut -c1-30'
bwrap --ro-bind / / --unshare-user --uid 1234 --gid 1234 id -u
bwrap --ro-bind / / --proc /proc --unshare-all bwrap --ro-bind / / --unshare-all echo nested
""").ok()
    out = r.lines()
    equal(out[:1] + out[2:3], ["inner", "0"])
    check("127.0.0.1/8" in out[3], r.describe())
    equal(out[4:], ["1234", "nested"])
