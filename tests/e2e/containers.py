"""Whole programs that make and run other systems: debootstrap, and packages installed into what it made; container tools."""

from harness import case, check, equal

# A tree of busybox at /srv/t.
TREE = """
set -e
mkdir -p /srv/t; cd /srv/t; mkdir -p bin etc usr/bin usr/lib proc sys dev tmp run var root; cp /bin/busybox bin/
for a in sh ls cat id ps hostname mount; do ln -s busybox bin/$a; done
echo ID=t > etc/os-release; cp etc/os-release usr/lib/; echo root:x:0:0:root:/root:/bin/sh > etc/passwd; echo root:x:0: > etc/group; cd /
"""


@case(timeout=240, once=True)
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


@case(timeout=60)
def containers_have_the_devices_that_their_programs_allow(t):
    """As root, with a control group of their own: the engines attach a program of the bundle's rules to it."""
    script = "set -e; exec 2>&1; runtime=%s\n" + BUNDLE + r"""
/usr/bin/python3 - <<'END'
import json
spec = json.load(open("config.json"))
# Besides those that every container has. 10:229 is /dev/fuse, 10:200 the one of tunnels.
rules = [("c", 10, 229, "r")] if ALLOWED else []
spec["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}] + [{"allow": True, "type": k, "major": a, "minor": b, "access": w} for k, a, b, w in rules]}
spec["process"]["capabilities"] = {kind: ["CAP_MKNOD", "CAP_KILL"] for kind in ("bounding", "effective", "permitted")}
spec["process"]["args"] = ["sh", "-c", '''
try() { "$@" 2>/dev/null && echo "$1 ok" || echo "$1 no"; }
put() { (: > $1); }; get() { (: < $1); }; mknod /dev/f c 10 229
try get /dev/null; try put /dev/null; try get /dev/zero; try get /dev/f; try put /dev/f''']
json.dump(spec, open("config.json", "w"))
END
ln -s busybox rootfs/bin/mknod
$runtime run devices </dev/null; ls -d /sys/fs/cgroup/*devices* 2>/dev/null || echo removed
"""
    for runtime in ("crun", "runc"):
        for allowed in (True, False):
            r = t.sh("rm -rf bundle;" + script.replace("ALLOWED", str(allowed)) % runtime, ["--tmpfs", "/run"]).ok()
            want = ["get ok", "put ok", "get ok", "get ok" if allowed else "get no", "put no", "removed"]
            equal(r.lines()[-len(want):], want, f"{runtime}: {r.describe()}")


@case(timeout=60)
def runc_runs_a_bundle_with_the_default_seccomp_profile(t):
    r = t.sh("set -e; exec 2>&1; runtime='runc --rootless=true'\n" + BUNDLE + "$runtime run test </dev/null; $runtime list | wc -l").ok()
    r.has("0\ninside\nCapEff:\t0000000020000420\nNoNewPrivs:\t1\nSeccomp:\t2\nbin\n", "can't create directory '/x': Read-only file system", "\ny\n", "mount: permission denied", "\n7\n", "\n1\n")


# The bundle above, with a program that stays until it is told to end.
STAYS = r"""
cp /bin/busybox rootfs/bin/sleep
/usr/bin/python3 - <<'END'
import json
spec = json.load(open("config.json"))
spec["process"]["args"] = ["sh", "-c", "trap 'echo told; exit 5' TERM; echo started; while :; do sleep 0.1; done"]
json.dump(spec, open("config.json", "w"))
END
status() { $runtime state box | sed -n 's/.*"status": "\(.*\)",/\1/p'; }
until_log() { for i in $(seq 100); do grep -q $1 log && return; sleep 0.1; done; }
$runtime create box </dev/null >log 2>&1; status
$runtime start box; until_log started; status
$runtime exec box sh -c 'id -u; uname -n; grep ^Seccomp: /proc/self/status; ps | grep -c "[e]cho started"; exit 9' || echo exec $?
$runtime kill box TERM; until_log told
for i in $(seq 100); do [ "$(status)" = stopped ] && break; sleep 0.1; done; status
$runtime delete box; $runtime list | wc -l; cat log
"""


def lives(t, runtime):
    r = t.sh(f"set -e; exec 2>&1; runtime='{runtime}'\n" + BUNDLE + STAYS).ok()
    equal(r.lines(), ["created", "running", "0", "inside", "Seccomp:\t2", "1", "exec 9", "stopped", "1", "started", "told"], r.describe())


@case(timeout=60)
def a_container_of_runc_is_created_started_entered_killed_and_deleted(t):
    lives(t, "runc --rootless=true")


@case(timeout=60)
def a_container_of_crun_is_created_started_entered_killed_and_deleted(t):
    lives(t, "crun --cgroup-manager=disabled")


@case(timeout=60)
def runc_runs_a_bundle_in_a_user_namespace_of_an_ordinary_user(t):
    user = r"""
/usr/bin/python3 - <<'END'
import json, os
spec = json.load(open("config.json"))
linux = spec["linux"]
linux["namespaces"].append({"type": "user"})
linux["uidMappings"], linux["gidMappings"] = ([{"containerID": 0, "hostID": own, "size": 1}] for own in (os.getuid(), os.getgid()))
del linux["resources"]
for mount in spec["mounts"]:
    mount["options"] = [option for option in mount.get("options", []) if option != "gid=5"]
    if mount["destination"] == "/sys":
        mount.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
spec["process"]["args"] = ["sh", "-c", "id -u; cat /proc/self/uid_map; grep ^Seccomp: /proc/self/status; mount -t tmpfs none /tmp || echo no"]
json.dump(spec, open("config.json", "w"))
END
"""
    r = t.sh("set -e; exec 2>&1; cd /tmp; runtime='runc --root /tmp/state'\n" + BUNDLE + user + "$runtime run test </dev/null", ["--user", "1234:1234"]).ok()
    equal([l.split() for l in r.lines()], [["0"], ["0", "1234", "1"], ["Seccomp:", "2"], *[l.split() for l in r.lines()[3:-1]], ["no"]], r.describe())


@case(timeout=120)
def podman_imports_an_image_and_runs_containers_of_it(t):
    """On its native overlay. The root is an overlay itself, on which containers/storage puts no other: storage is on a tmpfs."""
    script = TREE + r"""
exec 2>&1; set +e
podman() { command podman --cgroup-manager=cgroupfs "$@"; }
run() { podman run --network none --cgroups=disabled "$@"; }
tar -C /srv/t -c . | podman import -q - box >/dev/null; podman images --format '{{.Repository}}:{{.Tag}}'; podman info --format '{{.Store.GraphDriverName}}'
run --rm box sh -c 'id -u; ls -d /bin; touch /new; mount | grep -c "on / type overlay"; exit 4'; echo rc $?
run --rm --rootfs /srv/t sh -c 'echo from a tree'
run -d --name web box sh -c 'trap "echo told; exit 3" TERM; echo started; while :; do sleep 0.1; done' >/dev/null
for i in $(seq 50); do podman logs web | grep -q started && break; sleep 0.1; done
podman ps --format '{{.Names}}'; podman exec web sh -c 'ps | grep -c "[e]cho started"'
podman stop -t 10 web; podman ps -a --format '{{.Names}} {{.ExitCode}}'; podman logs web; podman rm web; podman ps -aq | wc -l
"""
    r = t.sh(script, ["--tmpfs", "/var/lib/containers"], timeout=100).ok()
    want = ["localhost/box:latest", "overlay", "0", "/bin", "1", "rc 4", "from a tree", "web", "1", "web", "web 3", "started", "told", "web", "0"]
    equal(r.lines(), want, r.describe())


@case(timeout=60)
def systemd_nspawn_gives_a_tree_other_roots_and_users(t):
    """Directories bound, an overlay or a snapshot over the tree, and a user namespace whose root owns what it must."""
    script = TREE + r"""
exec 2>&1; export UNIFIED_CGROUP_HIERARCHY=1; mkdir -p /srv/data; echo data > /srv/data/file
nspawn() { systemd-nspawn --quiet --register=no --keep-unit -D /srv/t "$@"; }
nspawn --bind-ro=/srv/data:/mnt/d sh -c 'cat /mnt/d/file; touch /mnt/d/new' || echo failed
nspawn --volatile=overlay sh -c 'echo > /new; ls -d /new'
nspawn --ephemeral sh -c 'echo > /new; ls -d /new'
ls -d /srv/t/new 2>/dev/null || echo unchanged
nspawn --private-users=65536:65536 sh -c 'id -u; cat /proc/self/uid_map'
nspawn --private-network --read-only sh -c 'grep -c : /proc/net/dev; echo > /new' || echo failed
"""
    r = t.sh(script, ["--tmpfs", "/run"]).ok()
    said = " ".join(r.out.split())
    for part in ("data touch: /mnt/d/new: Read-only file system failed /new /new unchanged 0 0 65536 65536", "can't create /new: Read-only file system failed"):
        check(part in said, f"no {part!r}: {r.describe()}")
    r.lacks("busy")


@case(timeout=60)
def schroot_sessions_come_and_go(t):
    """A session over an overlay; what runs in it is ended with it, and nothing of it is left."""
    script = TREE + r"""
exec 2>&1; mkdir -p /srv/t/home /srv/t/dev/pts /srv/t/dev/shm /var/lib/schroot/union/overlay /var/lib/schroot/union/underlay
printf '[t]\ntype=directory\ndirectory=/srv/t\nunion-type=overlay\nroot-users=root\nprofile=default\n' > /etc/schroot/chroot.d/t
for i in 1 2 3; do schroot -c t -d / -- sh -c 'id -u; (cd /tmp; sleep 100 > /log &); echo > /new; ls /new'; done
ls -d /srv/t/new 2>/dev/null || echo unchanged; schroot -l --all-sessions | wc -l; grep /run/schroot /proc/mounts || echo unmounted; pgrep sleep || echo ended
"""
    equal(t.sh(script).ok().lines(), ["0", "/new"] * 3 + ["unchanged", "0", "unmounted", "ended"])


@case(timeout=90)
def buildah_builds_an_image(t):
    script = TREE + r"""
exec 2>&1; mkdir /srv/context; tar -C /srv/t -c . > /srv/context/root.tar; echo text > /srv/context/file
printf 'FROM scratch\nADD root.tar /\nCOPY file /etc/file\nENV A=b\nRUN cat /etc/file; echo $A; id -u; echo made > /made\nCMD ["cat", "/made"]\n' > /srv/context/Containerfile
buildah bud --isolation chroot --network host -t built /srv/context >log 2>&1 || cat log; grep -x -E 'text|b|0' log
buildah images --format '{{.Name}}'; c=$(buildah from built); buildah run --isolation chroot $c cat /made; cat $(buildah mount $c)/made
"""
    r = t.sh(script, ["--tmpfs", "/var/lib/containers"], timeout=80).ok()
    equal(r.lines(), ["text", "b", "0", "localhost/built", "made", "made"], r.describe())


@case(timeout=120)
def podman_runs_containers_of_an_ordinary_user(t):
    """In a user namespace that newuidmap, a set-user-ID program, maps by /etc/subuid."""
    t.write("script", r"""
cd; exec 2>&1
unshare --user --map-root-user --map-auto sh -c 'touch x; chown 5:5 x; stat -c %u x'; stat -c %u x; rm -f x
podman import -q - box < /srv/t.tar > /dev/null; podman info --format '{{.Host.Security.Rootless}}'
podman run --rm --network none box sh -c 'cat /proc/self/uid_map; echo > /new; id -u; echo ended; exit 3'; echo rc $?
podman run --rm --network host --user 7:7 box id
""", 0o755)
    script = TREE + r"""
exec 2>&1; tar -C /srv/t -c . > /srv/t.tar; useradd -m -u 1500 pod; echo pod:200000:65536 | tee /etc/subuid > /etc/subgid
cp script /srv/script; chmod 755 /srv/script; su - pod -c 'sh /srv/script' | grep -v 'not a shared mount'
""".replace("cp script", f"cp {t.dir}/script")
    r = t.sh(script, timeout=100).ok()
    equal([line.split() for line in r.lines()[:7]], [["5"], ["200004"], ["true"], ["0", "1500", "1"], ["1", "200000", "65536"], ["0"], ["ended"]], r.describe())
    equal(r.lines()[7:], ["rc 3", "uid=7(7) gid=7(7) groups=7(7)"], r.describe())
