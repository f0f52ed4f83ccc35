"""File system types as programs mount and see them: `mount -t`, `df`, `bwrap`, `unshare --mount-proc`."""

from harness import case, check, equal


@case()
def a_tmpfs_with_a_limit_is_full_when_it_is_full(t):
    """dd, cat, a redirection and a compiler's kind of file all end in ENOSPC at the limit, and df agrees."""
    r = t.sh(
        "mount -t tmpfs -o size=1m tmpfs /mnt; cd /mnt\n"
        "dd if=/dev/zero of=x bs=64k 2>&1; stat -c %s x; df -k --output=size,used,avail . | tail -1; rm x\n"
        "cat /dev/zero > y; stat -c %s y; rm y\n"
        "{ yes; } > z; stat -c %s z; echo more >> z; rm z; df -k --output=used . | tail -1"
    )
    r.has("No space left on device", "1024  1024     0")
    sizes = [line for line in r.lines() if line.isdigit()]
    equal(sizes[:3], ["1048576"] * 3, f"sizes: {r.describe()}")
    equal(r.lines()[-1].strip(), "0", "used at the end")
    check(r.err.count("No space left on device") >= 3, f"errors of cat, yes and echo: {r.describe()}")


@case()
def a_tmpfs_lives_as_long_as_somebody_uses_it(t):
    """Unmounted lazily, its open files are read and written; mounted again at the place, it is another one."""
    t.sh(
        "mount -t tmpfs -o size=8k a /mnt; echo kept > /mnt/f; exec 3<>/mnt/f; umount -l /mnt; ls /mnt | wc -l\n"
        "cat <&3; echo more >&3; mount -t tmpfs b /mnt; ls /mnt | wc -l"
    ).ok().has("0\nkept\n0\n")


@case()
def a_control_file_refuses_what_linux_refuses(t):
    """The shell's echo meets the error of the write itself."""
    r = t.sh("echo x > /proc/self/uid_map; echo $?; echo 5000 > /proc/self/oom_score_adj; echo $?; echo ok > /proc/self/comm; echo $?")
    equal(r.out.split(), ["1", "1", "0"], r.describe())
    check("Operation not permitted" in r.err and "Invalid argument" in r.err, r.describe())


@case()
def bubblewrap_makes_a_dev_and_a_proc_of_its_own(t):
    """Terminals made inside have names there; the pid namespace has its own numbers."""
    script = (
        "bwrap --ro-bind / / --dev /dev --proc /proc --mqueue /dev/mqueue --tmpfs /tmp --unshare-pid --unshare-ipc "
        "sh -c 'script -qc tty /dev/null </dev/null; readlink /proc/self/ns/pid >/dev/null && echo proc; ls /proc | grep -c ^[0-9]; "
        "stat -f -c %t /dev/pts /dev/mqueue /proc'; ls /dev/pts"
    )
    r = t.sh(script).ok()
    r.has("/dev/pts/", "proc", "1cd1", "19800202", "9fa0")
    check(r.lines()[-1] == "ptmx", f"the terminal is not the outer instance's: {r.describe()}")


@case()
def what_can_be_mounted_is_listed_and_the_rest_is_unknown(t):
    """/proc/filesystems agrees with mount(2)."""
    r = t.sh(
        "for f in $(cut -f2 /proc/filesystems | grep -v -e fuse -e overlay); do mount -t $f none /mnt && umount /mnt && echo $f; done; "
        "for f in debugfs tracefs securityfs bpf binfmt_misc ext4; do mount -t $f none /mnt 2>&1; done"
    )
    r.has("tmpfs\n", "proc\n", "sysfs\n", "devpts\n", "devtmpfs\n", "ramfs\n", "cgroup2\n", "mqueue\n")
    equal(r.out.count("unknown filesystem type"), 6, r.describe())
