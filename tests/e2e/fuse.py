"""File systems served by programs inside, through our own /dev/fuse."""

from harness import case, check, equal

READY = "wait_for() { i=0; until eval \"$1\"; do i=$((i+1)); [ $i -gt 200 ] && echo \"never: $1\" && exit 1; sleep 0.05; done; }\n"


@case()
def a_squashfs_image_is_read_listed_and_executed_from(t):
    r = t.sh(READY + r"""
cd /tmp; mkdir -p src/sub mnt; seq 100000 > src/numbers; cp /bin/ls src/sub/ls; ln -s sub/ls src/link
mksquashfs src image -quiet -no-progress > /dev/null
squashfuse image mnt && diff -r src mnt && echo same
mnt/link mnt/sub; find mnt | sort | tr '\n' ' '; echo
stat -fc %T mnt; findmnt -no FSTYPE mnt
umount mnt && ls -A mnt | wc -l
wait_for '! pgrep squashfuse > /dev/null' && echo server ended
""").ok()
    equal(r.lines(), ["same", "ls", "mnt mnt/link mnt/numbers mnt/sub mnt/sub/ls ", "fuseblk", "fuse.squashfuse", "0",
                      "server ended"])


@case()
def bindfs_changes_what_is_behind_it(t):
    r = t.sh(READY + r"""
cd /tmp; mkdir src mnt; echo one > src/a; bindfs src mnt
echo two >> mnt/a; echo new > mnt/b; mkdir mnt/d; mv mnt/b mnt/d/c; ln mnt/a mnt/hard; ln -s a mnt/soft
chmod 640 mnt/a; truncate -s 3 mnt/d/c; touch -d @1000 mnt/d; cp /bin/true mnt/true; mnt/true && echo ran
wait_for 'grep -q two src/a'; wait_for 'cmp -s /bin/true src/true'
cat src/a; cat src/d/c; echo; cat src/soft; stat -c '%a %h' src/a; stat -c %Y src/d mnt/d
dd if=/dev/zero of=mnt/big bs=1M count=3 status=none; wait_for '[ $(stat -c %s src/big) = 3145728 ]'
python3 - <<'P'
import mmap
with open("/tmp/mnt/map", "wb+") as f:
    f.truncate(8192)
    with mmap.mmap(f.fileno(), 8192) as m: m[4096:4100] = b"mmap"
P
wait_for 'grep -qa mmap src/map' && echo mapped
wait_for 'rm -rf mnt/d mnt/hard; [ ! -e mnt/d ]'; ls src | tr '\n' ' '; echo
rmdir mnt/nothing 2>&1; mkdir mnt/a 2>&1; cat mnt/nothing 2>&1
exec 5< mnt/a; umount mnt 2>&1; exec 5<&-; wait_for 'umount mnt 2>/dev/null'; ls -A mnt | wc -l
""").ok()
    equal(r.lines(), ["ran", "one", "two", "new", "one", "two", "640 2", "1000", "1000", "mapped", "a big map soft true ",
                      "rmdir: failed to remove 'mnt/nothing': No such file or directory",
                      "mkdir: cannot create directory ‘mnt/a’: File exists",
                      "cat: mnt/nothing: No such file or directory",
                      "umount: /tmp/mnt: target is busy.", "0"])


@case()
def fsync_brings_changes_to_the_server_and_tells_its_errors(t):
    r = t.sh(READY + r"""
cd /tmp; mkdir src mnt; (trap '' XFSZ; ulimit -f 64; bindfs src mnt)
python3 - <<'P'
import errno, os
fd = os.open("/tmp/mnt/f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"first"); os.fsync(fd); print(open("/tmp/src/f").read())
os.pwrite(fd, b"again", 0); os.fdatasync(fd); print(open("/tmp/src/f").read())
os.close(fd)
fd = os.open("/tmp/mnt/large", os.O_RDWR | os.O_CREAT)
os.write(fd, bytes(1 << 20))
try: os.fsync(fd)
except OSError as e: print(errno.errorcode[e.errno])
os.ftruncate(fd, 5)
os.fsync(fd)
print(os.path.getsize("/tmp/src/large"))
P
wait_for 'umount mnt 2>/dev/null' && echo unmounted
""").ok()
    equal(r.lines(), ["first", "again", "EFBIG", "5", "unmounted"])


@case()
def sshfs_works_over_a_pipe(t):
    r = t.sh(READY + r"""
cd /tmp; mkdir remote mnt; echo far > remote/file
printf '#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n' > ssh; chmod +x ssh
sshfs -o ssh_command=/tmp/ssh nowhere:/tmp/remote mnt && cat mnt/file && echo back > mnt/new
wait_for 'grep -q back remote/new'; ls mnt | tr '\n' ' '; echo; findmnt -no FSTYPE,SOURCE mnt; fusermount3 -u mnt && ls mnt | wc -l
""").ok()
    equal(r.lines(), ["far", "file new ", "fuse.sshfs nowhere:/tmp/remote", "0"])


@case()
def a_mount_is_seen_in_its_mount_namespace_only(t):
    r = t.sh(READY + r"""
cd /tmp; mkdir src mnt; echo inner > src/f
unshare -m sh -c 'bindfs src mnt; cat mnt/f; touch up; while [ ! -e down ]; do sleep 0.05; done' &
wait_for '[ -e up ]'; ls mnt | wc -l; nsenter -m -t $! cat /tmp/mnt/f; touch down; wait; echo over
""").ok()
    equal(r.lines(), ["inner", "0", "inner", "over"])


@case()
def a_killed_server_leaves_enotconn_and_can_be_unmounted(t):
    r = t.sh(READY + r"""
cd /tmp; mkdir src mnt; echo x > src/f; bindfs -f src mnt & wait_for '[ -e mnt/f ]'
pkill -KILL bindfs; wait; cat mnt/f 2>&1; ls mnt 2>&1; umount mnt; ls mnt | wc -l
""").ok()
    equal(r.lines(), ["cat: mnt/f: Transport endpoint is not connected",
                      "ls: cannot access 'mnt': Transport endpoint is not connected", "0"])


@case()
def a_server_that_uses_its_own_mount_hangs_nobody_else(t):
    """The server waits for itself for ever, as on Linux; it can be killed, and others go on."""
    t.write("own.py", r"""
import ctypes, os, struct, threading
fd = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
opts = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
assert libc.mount(b"own", b"/tmp/mnt", b"fuse", 0, opts) == 0, ctypes.get_errno()
while True:
    msg = os.read(fd, 1 << 20)
    length, op, unique = struct.unpack_from("IIQ", msg)
    if op == 26:
        body = struct.pack("IIIIHHI", 7, 31, 0, 0, 0, 0, 4096)
        os.write(fd, struct.pack("IiQ", 16 + len(body), 0, unique) + body)
    else:
        open("/tmp/asked", "w").close()
        os.stat("/tmp/mnt/x")
""")
    r = t.sh(READY + r"""
mkdir /tmp/mnt; python3 own.py & server=$!
wait_for 'grep -q /tmp/mnt /proc/mounts'; (ls /tmp/mnt 2>&1) & wait_for '[ -e /tmp/asked ]'
i=0; while [ $i -lt 200 ]; do stat /etc/passwd > /dev/null; i=$((i+1)); done; echo others go on
kill -KILL $server; wait; umount /tmp/mnt && echo unmounted
""").ok()
    equal(r.lines(), ["others go on", "ls: cannot access '/tmp/mnt': Transport endpoint is not connected", "unmounted"])


@case()
def an_ordinary_user_mounts_for_himself(t):
    r = t.sh(READY + r"""
useradd -m alice; cd /home/alice; mkdir src mnt; echo hers > src/f; chown -R alice: src mnt
su alice -c 'bindfs --no-allow-other src mnt && cat mnt/f'
cat mnt/f 2>&1; grep /home/alice/mnt /proc/mounts | cut -d' ' -f4
su alice -c 'fusermount3 -u mnt'; ls mnt | wc -l
su alice -c 'mkdir other; unshare -m true' 2>&1
""")
    out = r.lines()
    equal(out[0], "hers")
    equal(out[1], "cat: mnt/f: Permission denied")
    check(out[2].startswith("rw,nosuid,nodev") and "user_id=" in out[2], r.describe())
    equal(out[3], "0")
