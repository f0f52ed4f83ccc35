"""Whole programs that make and run other systems: debootstrap, and packages installed into what it made; container tools."""

from harness import case, equal

# A tree of busybox at /srv/t.
TREE = """
set -e
mkdir -p /srv/t; cd /srv/t; mkdir -p bin etc usr/bin usr/lib proc sys dev tmp run var root; cp /bin/busybox bin/
for a in sh ls cat id ps hostname mount; do ln -s busybox bin/$a; done
echo ID=t > etc/os-release; cp etc/os-release usr/lib/; echo root:x:0:0:root:/root:/bin/sh > etc/passwd; echo root:x:0: > etc/group; cd /
"""


@case(timeout=240)
def a_system_that_debootstrap_made_inside_installs_packages(t):
    """Services, maintainer scripts, set-id programs and file capabilities arrive in a tree that was made inside and kept."""
    made, layer = t.dir.parent / (t.dir.name + ".made"), t.dir.parent / (t.dir.name + ".layer")
    mirror = ["--bind", f"{t.fixtures}/mirror:/srv/mirror:ro"]
    t.sh("debootstrap --no-check-gpg --variant=minbase bookworm /srv/tree file:///srv/mirror", ["--keep", made, *mirror]).ok().has("Base system installed successfully")
    r = t.sh(
        r"""
set -e
export DEBIAN_FRONTEND=noninteractive
echo 'deb [trusted=yes] file:///srv/mirror bookworm main' > /etc/apt/sources.list
apt-get -q update
apt-get -q -y --no-install-recommends install cron dbus nginx-light iputils-ping openssh-server libcap2-bin
echo ==; stat -c '%U:%G %a %n' /etc/shadow /usr/bin/ssh-agent /usr/lib/dbus-1.0/dbus-daemon-launch-helper /var/spool/cron/crontabs
getcap /usr/bin/ping; test -z "$(dpkg --audit)" && echo configured; id -un messagebus
mkdir -p /run/sshd; /usr/sbin/sshd -t && echo sshd
""",
        ["--root", made / "root/srv/tree", "--keep", layer, *mirror],
    ).ok()
    r.has("root:shadow 640 /etc/shadow", "root:_ssh 2755 /usr/bin/ssh-agent", "root:messagebus 4754", "root:crontab 1730", "/usr/bin/ping cap_net_raw=ep", "configured", "messagebus", "sshd")


@case()
def systemd_nspawn_runs_a_command_in_a_tree(t):
    """Its own pid, mount, UTS, IPC and cgroup namespaces, /proc/kmsg hidden, and a control group with the pids controller below."""
    r = t.sh(
        TREE + "mkdir /sys/fs/cgroup/box.service; echo $$ > /sys/fs/cgroup/box.service/cgroup.procs; "
        "UNIFIED_CGROUP_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit -D /srv/t /bin/sh -c '"
        "id; hostname; cat /proc/self/cgroup; echo pid $$; ls -d /sys/fs/cgroup/cgroup.procs; mount | grep cgroup2'; ls -d /sys/fs/cgroup/box.service/*/"
    ).ok()
    r.has("uid=0(root)", "\nt", "0::/", "pid 1", "/sys/fs/cgroup/cgroup.procs", "on /sys/fs/cgroup type cgroup2", "payload/")


@case()
def a_mount_goes_over_the_name_of_an_open_file(t):
    """crun makes a file, and mounts over the link of its descriptor in a bound tree and a mount namespace of its own."""
    r = t.sh(
        r"""
mkdir -p /srv/t; echo over > /srv/over
unshare -m sh -c 'mount --bind /srv/t /srv/t; exec 5> /srv/t/file; mount --bind /srv/over /proc/self/fd/5; cat /srv/t/file; mount --make-private /srv/t/file && findmnt -no TARGET /srv/t/file'
cat /srv/t/file; findmnt /srv/t/file || echo none
"""
    )
    equal(r.lines(), ["over", "/srv/t/file", "none"], r.describe())


@case(timeout=60)
def bubblewrap_puts_a_program_under_a_filter_of_libseccomp(t):
    """--seccomp: for the program, what it runs, and what those run; each filter of its own."""
    t.write("filter.py", r"""
import errno, seccomp, sys
f = seccomp.SyscallFilter(seccomp.ALLOW)
for name in ("mkdir", "mkdirat"):
    f.add_rule(seccomp.ERRNO(errno.EXDEV), name)
f.add_rule(seccomp.KILL_PROCESS, "sethostname")
f.export_bpf(open("filter.bpf", "wb"))
""")
    script = r"""
exec 2>&1; /usr/bin/python3 filter.py
sandbox="bwrap --ro-bind / / --tmpfs /tmp --proc /proc --dev /dev --unshare-all --seccomp 9"
$sandbox sh -c 'grep ^Seccomp: /proc/self/status; mkdir /tmp/a; sh -c "mkdir /tmp/b"; touch /tmp/c && ls /tmp; hostname x; echo $?' 9<filter.bpf
grep ^Seccomp: /proc/self/status; mkdir /tmp/a && echo made
"""
    r = t.sh(script).ok()
    r.has("Seccomp:\t2", "/tmp/a’: Invalid cross-device link", "/tmp/b’: Invalid cross-device link", "\nc\nBad system call\n159\n", "Seccomp:\t0\nmade")


# The OCI bundle of a shell, with the seccomp profile that Docker and Podman come with.
BUNDLE = r"""
mkdir -p bundle/rootfs/bin bundle/rootfs/proc bundle/rootfs/sys bundle/rootfs/dev bundle/rootfs/tmp
cd bundle; cp /bin/busybox rootfs/bin; for a in sh ls cat grep mount uname id mkdir ps; do ln -s busybox rootfs/bin/$a; done
$runtime spec
/usr/bin/python3 - <<'END'
import json
profile, spec = (json.load(open(f)) for f in ("/usr/share/containers/seccomp.json", "config.json"))
rules = []
for rule in profile["syscalls"]:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if "caps" in includes or "amd64" not in includes.get("arches", ["amd64"]) or "amd64" in excludes.get("arches", []):
        continue
    rules.append({key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key)})
architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
spec["linux"]["seccomp"] = {"defaultAction": profile["defaultAction"], "architectures": architectures, "syscalls": rules}
spec["process"]["terminal"] = False
spec["hostname"] = "inside"
spec["process"]["args"] = ["sh", "-c", '''
id -u; uname -n; grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status; ls /; ps | grep -c .
mkdir /x; mkdir /dev/shm/y && ls /dev/shm; mount -t tmpfs none /tmp; (exit 7); echo $?''']
json.dump(spec, open("config.json", "w"))
END
"""


@case(timeout=60)
def crun_runs_a_bundle_with_the_default_seccomp_profile(t):
    r = t.sh("set -e; exec 2>&1; runtime='crun --cgroup-manager=disabled'\n" + BUNDLE + "$runtime run test </dev/null; $runtime list | wc -l").ok()
    r.has("0\ninside\nCapEff:\t0000000020000420\nNoNewPrivs:\t1\nSeccomp:\t2\nbin\n", "can't create directory '/x': Read-only file system", "\ny\n", "mount: permission denied", "\n7\n1\n")
