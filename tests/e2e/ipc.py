"""System V IPC and POSIX message queues by the programs that show and use them."""

import os
import re
import subprocess

from harness import case, check, equal

LIST = r"""
LC_ALL=C ipcs; LC_ALL=C ipcmk -M 10000 -S 3 -Q; LC_ALL=C ipcs; LC_ALL=C ipcs -l; LC_ALL=C ipcs -u; lsipc | head -12
cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg
echo "100 200 300 400" > /proc/sys/kernel/sem; cat /proc/sys/kernel/sem; unshare --ipc cat /proc/sys/kernel/sem
echo 4097 > /proc/sys/kernel/shmmni; cat /proc/sys/kernel/shmmni; echo 99999 > /proc/sys/kernel/shmmni; cat /proc/sys/kernel/shmmni
ipcrm -a; LC_ALL=C ipcs
"""


def without_chance(text):
    """Keys are random, and times and process numbers differ."""
    text = re.sub(r"0x[0-9a-f]{8}", "KEY", text)
    text = re.sub(r"(?m)^( *)-?\d{7,10} ", "KEY ", text)
    return re.sub(r" +\d{10}\b", " TIME", re.sub(r"(10000) +\d+ +0 +0", r"\1 PIDS", text))


@case()
def objects_are_listed_made_and_removed_as_on_the_host(t):
    inside = t.sh(LIST + "true").ok()
    inside.has("Semaphore Arrays", "100\t200\t300\t400", "4097")
    if os.geteuid() == 0:
        native = subprocess.run(["unshare", "-m", "--ipc", "bash", "-c", LIST], capture_output=True, text=True)
        equal(without_chance(inside.out), without_chance(native.stdout))


@case()
def a_namespace_has_objects_of_its_own_and_takes_them_along(t):
    r = t.sh(r"""
ipcmk -Q > /dev/null; ipcs -q | grep -c 0x
unshare --ipc sh -c 'ipcs -q | grep -c 0x; ipcmk -Q > /dev/null; ipcmk -Q > /dev/null; ipcs -q | grep -c 0x'
ipcs -q | grep -c 0x
unshare --ipc sh -c 'ipcmk -M 1000 > /dev/null; touch /tmp/up; sleep 30' & while [ ! -e /tmp/up ]; do sleep 0.05; done
p=$(pgrep -x sleep); nsenter --target $p --ipc ipcs -m | grep -c 1000; ipcs -m | grep -c 1000; kill $p; true
unshare -Ur --ipc sh -c 'echo 5 > /proc/sys/kernel/msgmni; cat /proc/sys/kernel/msgmni'; cat /proc/sys/kernel/msgmni
""").ok()
    equal(r.lines(), ["1", "0", "2", "1", "1", "0", "5", "32000"])


@case()
def a_user_cannot_touch_what_is_not_his(t):
    r = t.sh(r"""
ipcmk -M 1000 -p 600 > /dev/null; id=$(ipcs -m | awk '$5 == 1000 {print $2}')
setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "ipcrm -m $id; echo \$?"
ipcs -m | grep -c 1000
""", ["--user", "0:0"]).ok()
    equal(r.lines()[-2:], ["1", "1"])
    check("permission" in (r.out + r.err).lower() or "permitted" in (r.out + r.err).lower(), r.describe())


@case()
def message_queues_are_files_where_mqueue_is_mounted(t):
    t.write("make.py", """
import ctypes, os
libc = ctypes.CDLL(None)
q = libc.mq_open(b"/alpha", os.O_RDWR | os.O_CREAT, 0o640, None)
print(libc.mq_send(q, b"hello", 5, 3))
""")
    r = t.sh(r"""
mkdir -p /mnt/q; mount -t mqueue none /mnt/q; python3 make.py; stat -c '%a %s %n' /mnt/q/*; cat /mnt/q/alpha
chmod 600 /mnt/q/alpha; touch /mnt/q/beta; stat -c '%a %n' /mnt/q/*; rm /mnt/q/alpha; ls /mnt/q
unshare --ipc -m sh -c 'mkdir /tmp/q2; mount -t mqueue none /tmp/q2; ls /tmp/q2; ls /mnt/q; python3 make.py; ls /tmp/q2; ls /mnt/q'; true
""").ok()
    equal(r.lines(), [
        "0", "640 80 /mnt/q/alpha", "QSIZE:5          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     ",
        "600 /mnt/q/alpha", "644 /mnt/q/beta", "beta", "beta", "0", "alpha", "beta",
    ])


POSTGRES = r"""
set -e
B=$(dirname $(ls /usr/lib/postgresql/*/bin/initdb | tail -1)); D=/tmp/pg; mkdir -p /tmp/s; export LC_ALL=C PGHOST=/tmp/s PGUSER=me
$B/initdb -D $D -A trust -U me --no-sync > /tmp/init.log
printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '/tmp/s'" "shared_memory_type = sysv" >> $D/postgresql.conf
$B/pg_ctl -D $D -l /tmp/pg.log -w start > /dev/null
echo "segments $(ipcs -m | grep -c ' 600 ')"
$B/createdb bench; $B/pgbench -i -q bench > /dev/null 2>&1
$B/pgbench -c 8 -j 2 -T SECONDS bench 2>&1 | grep -E 'processed|failed|tps'
count='select count(*) from pgbench_history'; before=$($B/psql -tAc "$count" bench)
kill -9 $(head -1 $D/postmaster.pid); sleep 0.3
$B/pg_ctl -D $D -l /tmp/pg.log -w start > /dev/null
grep -q 'not properly shut down' /tmp/pg.log && echo recovered
[ "$before" = "$($B/psql -tAc "$count" bench)" ] && echo kept
$B/psql -tAc 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)' bench
$B/pg_ctl -D $D -m fast -w stop > /dev/null
echo "segments $(ipcs -m | grep -c ' 600 ')"
"""


@case(timeout=180)
def postgresql_serves_eight_clients_and_recovers_after_kill_9(t):
    # NOMINA_PGBENCH_SECONDS=60 for longer.
    script = POSTGRES.replace("SECONDS", os.environ.get("NOMINA_PGBENCH_SECONDS", "2"))
    r = t.sh(script, ["--user", "1000:1000"], timeout=170).ok()
    r.has("failed transactions: 0", "recovered", "kept")
    check("t" in r.lines(), "the sums differ: " + r.describe())
    equal((r.lines()[0], r.lines()[-1]), ("segments 1", "segments 0"))
    print(*[line for line in r.lines() if "tps" in line])


@case()
def redis_keeps_what_it_was_told_over_kill_9(t):
    t.write("redis.conf", """
port 0
unixsocket /tmp/redis.sock
dir /tmp
appendonly yes
appendfsync always
daemonize no
""")
    r = t.sh(r"""
start() { redis-server ./redis.conf > /tmp/redis.log 2>&1 & pid=$!; for i in $(seq 100); do redis-cli -s /tmp/redis.sock ping 2>/dev/null | grep -q PONG && return; sleep 0.1; done; tail /tmp/redis.log; }
start
for i in $(seq 200); do echo "SET key$i value$i"; done | redis-cli -s /tmp/redis.sock | sort | uniq -c | tr -s ' '
kill -9 $pid; wait $pid 2>/dev/null
start
redis-cli -s /tmp/redis.sock get key200; redis-cli -s /tmp/redis.sock dbsize
redis-cli -s /tmp/redis.sock bgsave; sleep 0.5; redis-cli -s /tmp/redis.sock shutdown save; wait $pid; ls /tmp/dump.rdb
""", ["--user", "1000:1000"]).ok()
    equal(r.lines(), [" 200 OK", "value200", "200", "Background saving started", "/tmp/dump.rdb"])
