"""Control groups and their namespaces, seen by programs."""

from harness import HERE, case, check, equal


@case()
def groups_answer_as_the_kernels_do(t):
    """What root was told on a host (sequence.expected), in the same order."""
    r = t.run(["python3", "/cgroups/sequence.py", "/sys/fs/cgroup"], ["--bind", f"{HERE}/cgroups:/cgroups:ro"]).ok()
    equal(r.out, (HERE / "cgroups" / "sequence.expected").read_text(), r.describe())


@case()
def the_limit_of_a_group_ends_a_fork_bomb(t):
    """pids.max holds for everything below, whoever forks."""
    r = t.sh(
        "cd /sys/fs/cgroup; echo +pids > cgroup.subtree_control; mkdir a a/b; echo 4 > a/pids.max; "
        "sh -c 'echo 0 > a/b/cgroup.procs; for i in 1 2 3 4 5 6; do sleep 9 & done' 2>&1; cat a/pids.current a/pids.peak a/pids.events; "
        "echo 1 > a/cgroup.kill; for i in 1 2 3 4 5 6 7 8 9; do grep -q 'populated 0' a/cgroup.events && break; sleep 0.1; done; rmdir a/b a && ls"
    ).ok()
    r.has("Cannot fork", "3\n4\nmax ", "cgroup.subtree_control").lacks("busy")


@case()
def a_cgroup_namespace_begins_where_its_maker_was(t):
    """unshare, mounts and nsenter agree about the root."""
    r = t.sh(
        "cd /sys/fs/cgroup; mkdir -p a/b; echo $$ > a/cgroup.procs; cat /proc/self/cgroup; "
        "unshare -C sh -c 'cat /proc/self/cgroup; grep -o \"[^ ]* /sys/fs/cgroup\" /proc/self/mountinfo; mount -t cgroup2 none /mnt; ls -d /mnt/b; "
        "grep -o \"[^ ]* /mnt\" /proc/self/mountinfo; lsns -t cgroup -no NPROCS; echo 0 > cgroup.procs; echo 0 > /mnt/b/cgroup.procs; cat /proc/self/cgroup; "
        "nsenter --target 1 --cgroup cat /proc/self/cgroup'; cat /proc/1/cgroup"
    ).ok()
    text = " ".join(r.out.split())
    check(text.startswith("0::/a 0::/ /.. /sys/fs/cgroup /mnt/b / /mnt"), r.describe())
    check(text.endswith("0::/b 0::/a/b 0::/a"), r.describe())


@case()
def a_user_gets_a_subtree_and_stays_in_it(t):
    """Delegation: moving tasks needs the group around both."""
    r = t.sh(
        "cd /sys/fs/cgroup; mkdir -p u/1 u/2; chown -R nobody u; chmod 711 .; su -s /bin/sh nobody -c '"
        "echo 0 > u/1/cgroup.procs; echo $?'; sh -c 'echo 0 > u/1/cgroup.procs; exec su -s /bin/sh nobody -c \""
        "mkdir u/3; echo 0 > u/2/cgroup.procs; cat /proc/self/cgroup; echo 0 > cgroup.procs; echo \\$?\"'"
    )
    equal(r.out.split(), ["1", "0::/u/2", "2"], r.describe())
    check("cannot create cgroup.procs: Permission denied" in r.err, r.describe())


@case()
def version_one_is_unknown_and_version_two_is_one_instance(t):
    """A second mount shows the same groups."""
    r = t.sh("mount -t cgroup2 none /mnt; mkdir /mnt/x; ls -d /sys/fs/cgroup/x; mount -t cgroup none /mnt 2>&1; cat /proc/cgroups; stat -f -c %t /mnt")
    r.has("/sys/fs/cgroup/x", "unknown filesystem type 'cgroup'", "pids\t0\t2\t1", "63677270")
