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
