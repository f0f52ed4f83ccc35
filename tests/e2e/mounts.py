"""Programs about mounts, unchanged from Debian, as they behave for root on the host."""

from harness import case, check, equal


@case()
def mount_findmnt_and_umount_agree(t):
    r = t.sh("""
        cd /tmp; mkdir a b
        mount -t tmpfs -o mode=750,nosuid,nodev one a
        findmnt -n -o TARGET,SOURCE,FSTYPE,VFS-OPTIONS /tmp/a
        stat -c %a a; stat -f -c %T a
        mount --bind a b; touch a/x; ls b
        mount -o remount,bind,ro b; touch b/y 2>&1; touch a/z && ls a
        findmnt -n -o VFS-OPTIONS /tmp/b
        umount b a; ls a b; findmnt /tmp/a; echo $?
        """).ok()
    equal(r.lines(), ["/tmp/a one    tmpfs  rw,nosuid,nodev,relatime", "750", "tmpfs", "x",
                      "touch: cannot touch 'b/y': Read-only file system", "x", "z", "ro,nosuid,nodev,relatime",
                      "a:", "", "b:", "1"])


@case()
def propagation_types_are_set_and_shown(t):
    r = t.sh("""
        unshare -m sh -c '
        mkdir /tmp/p; mount -t tmpfs p /tmp/p
        for kind in shared slave private unbindable rshared; do
            mount --make-$kind /tmp/p; findmnt -n -o PROPAGATION /tmp/p
        done'
        """).ok()
    equal(r.lines(), ["shared", "private", "private", "private,unbindable", "shared"])


@case()
def unshare_sets_the_propagation_asked_for(t):
    for kind, shown in (("private", "private"), ("shared", "shared"), ("slave", "private,slave"), ("unchanged", "shared")):
        r = t.sh(f"""
            mount --make-rshared /
            unshare -m --propagation {kind} findmnt -n -o PROPAGATION /
            """).ok()
        equal(r.lines(), [shown], kind)


@case()
def a_mount_on_a_shared_directory_reaches_the_other_namespace_and_only_one_way_to_a_slave(t):
    r = t.sh("""
        cd /tmp; mkdir s; mount -t tmpfs s s; mount --make-shared s; mkdir s/1 s/2
        mkfifo up down
        unshare -m --propagation slave sh -c '
            echo > up; read line < down
            ls s/1; mount -t tmpfs inner s/2; touch s/2/inside; echo > up; read line < down' &
        read line < up
        mount -t tmpfs outer s/1; touch s/1/seen; echo > down
        read line < up
        ls s/2 | wc -l; echo > down; wait
        """).ok()
    equal(r.lines(), ["seen", "0"])


@case()
def nsenter_sees_what_is_mounted_in_another_namespace(t):
    r = t.sh("""
        mkdir /tmp/m
        unshare -m sh -c 'mount -t tmpfs x /tmp/m; touch /tmp/m/inside; touch /tmp/ready; sleep 30' &
        pid=$!
        until [ -e /tmp/ready ]; do sleep 0.05; done
        ls /tmp/m | wc -l; nsenter -m -t $pid ls /tmp/m
        lsns -n -t mnt -o NPROCS | wc -l
        kill %1
        """).ok()
    equal(r.lines()[:2], ["0", "inside"])
    check(int(r.lines()[2]) >= 2, r.describe())


@case()
def pivot_root_and_switch_root_change_the_root(t):
    root = """
        mkdir -p /tmp/new; mount -t tmpfs new /tmp/new; cd /tmp/new
        mkdir bin old proc tmp; cp /bin/busybox bin/; ln -s busybox bin/sh; ln -s busybox bin/ls; ln -s busybox bin/umount
        """
    r = t.sh("unshare -m sh -c '" + root + """
        mount -t proc proc proc
        pivot_root . old; exec bin/sh -c "umount -l old; ls /; cat /proc/self/mounts | wc -l"
        '""").ok()
    equal(r.lines()[:5], ["bin", "old", "proc", "tmp", "2"])
    r = t.sh("unshare -m sh -c '" + root + "pivot_root . .; umount -l .; exec bin/ls /'").ok()
    equal(r.lines(), ["bin", "old", "proc", "tmp"])
    r = t.sh("unshare -m sh -c '" + root + "cd /; exec switch_root /tmp/new /bin/ls /'").ok()
    check("bin" in r.lines() and "etc" not in r.lines(), r.describe())


@case()
def a_busy_mount_stays_and_a_lazy_unmount_goes(t):
    r = t.sh("""
        cd /tmp; mkdir m; mount -t tmpfs m m
        exec 9> m/file; umount m; exec 9>&-
        (cd m; exec sleep 20) & sleep 0.3; umount m; kill $!; wait
        cp /bin/sleep m; m/sleep 20 & sleep 0.3; umount m; kill $!; wait
        exec 9> m/file; umount -l m && ls m; echo still >&9 && echo written; exec 9>&-
        umount m 2>&1
        """)
    equal(r.err.count("target is busy"), 3, r.describe())
    equal(r.lines()[-2:], ["written", "umount: m: not mounted."], r.describe())


@case()
def a_namespace_is_kept_by_a_mount_of_its_file(t):
    r = t.sh("""
        cd /tmp; touch uts
        unshare --uts=/tmp/uts hostname kept
        hostname other; nsenter --uts=/tmp/uts hostname
        findmnt -n -o FSTYPE /tmp/uts; stat -f -c %T uts
        mkdir ns; mount --bind ns ns; mount --make-private ns; touch ns/mnt
        unshare --mount=/tmp/ns/mnt mount -t tmpfs inside /mnt
        nsenter --mount=/tmp/ns/mnt findmnt -n -o SOURCE /mnt
        umount uts ns/mnt ns && echo unmounted
        unshare -m sh -c 'touch /tmp/mine; mount --bind /proc/self/ns/mnt /tmp/mine' 2>&1 | grep -c wrong
        """).ok()
    equal(r.lines(), ["kept", "nsfs", "nsfs", "inside", "unmounted", "1"], r.describe())


@case()
def small_programs_say_what_they_say_on_the_host(t):
    r = t.sh("""
        mountpoint -q /proc && echo proc; mountpoint /tmp; mkdir /tmp/d
        mountpoint -q /tmp/d || echo none
        mount -t tmpfs d /tmp/d && mountpoint -q /tmp/d && echo there
        losetup -f 2>&1; mount -t ext4 /dev/null /tmp/d 2>&1 | head -1
        mount -t tmpfs -o bogus=1 x /tmp/d 2>&1 | head -1
        chroot /tmp/d /bin/true 2>&1; sync; sync -f /tmp/d && echo synced
        df --output=fstype /tmp/d | tail -1
        """)
    equal(r.lines()[0], "proc", r.describe())
    for text in ("none", "there", "cannot find an unused loop device", "unknown filesystem type 'ext4'", "wrong fs type, bad option",
                 "chroot: failed to run command", "synced", "tmpfs"):
        check(text in r.out, f"no {text!r}: {r.describe()}")


@case()
def an_ordinary_user_inside_mounts_only_in_a_user_namespace_of_his_own(t):
    r = t.sh("""
        mount -t tmpfs x /mnt 2>&1 | grep -o 'must be superuser'; umount /proc 2>&1 | grep -o 'must be superuser'
        unshare -Urm sh -c 'mount -t tmpfs x /mnt && touch /mnt/a && ls /mnt; mount -o remount,bind,rw /sys 2>&1 | grep -o permission
            umount /proc 2>&1 | grep -o "not mounted"; mount -t devtmpfs x /mnt 2>&1 | grep -o permission
            mknod /mnt/null c 1 3 2>&1 | grep -o "not permitted"'
        ls /mnt | wc -l
        """, ["--user", "1000:1000"])
    equal(r.lines(), ["must be superuser", "must be superuser", "a", "permission", "not mounted", "permission",
                      "not permitted", "0"], r.describe())


@case()
def mount_of_a_mount_table_that_is_full_fails(t):
    """The limit of a namespace answers a bomb."""
    r = t.sh("""
        cd /tmp; mkdir x; mount -t tmpfs x x; mkdir x/a; mount --make-shared x
        for i in $(seq 24); do mount --rbind x x/a || break; done 2>&1 | grep -o 'No space left on device'
        umount -l x && echo gone
        """, timeout=110)
    equal(r.lines()[-1], "gone", r.describe())


@case()
def findmnt_poll_sees_mounts_come_and_go(t):
    r = t.sh("""
        mkdir /tmp/m; findmnt --poll -n -o ACTION,TARGET > /tmp/log &
        sleep 0.5
        mount -t tmpfs x /tmp/m; until [ $(wc -l < /tmp/log) = 1 ]; do sleep 0.02; done
        umount /tmp/m; until [ $(wc -l < /tmp/log) = 2 ]; do sleep 0.02; done
        kill $!; sed 's/  */ /' /tmp/log
        """).ok()
    equal(r.lines(), ["mount /tmp/m", "umount /tmp/m"])
