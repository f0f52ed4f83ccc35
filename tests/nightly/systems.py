#!/usr/bin/python3
"""Whole systems made and booted inside, which takes minutes: mmdebstrap as root and in a user namespace, by root and by an
ordinary user inside; systemd in systemd-nspawn.

    tests/nightly/systems.py --nomina PROGRAM [--fixtures DIR]

Run as root: Nomina runs as the ordinary user nomina-test. DIR is what tests/fixtures.sh made. Exit code 1 if anything fails.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

MMDEBSTRAP = (
    "mmdebstrap --mode={mode} --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --variant=minbase bookworm {tar} "
    "'deb [trusted=yes] copy:///srv/mirror bookworm main'"
)
LOOK = "tar -tf {tar} | grep -c . ; tar --numeric-owner -tvf {tar} ./etc/shadow ./usr/bin/passwd"

# A tree with the host's /usr, in which one unit looks around when the others have been started.
BOOT = r"""
mkdir -p /srv/t; cd /srv/t; mkdir -p usr etc proc sys dev run var/lib var/log/journal tmp root
for l in bin sbin lib lib64; do ln -s usr/$l $l; done; mount --bind /usr usr
cp -a /etc/passwd /etc/group /etc/shadow /etc/dbus-1 /etc/pam.d /etc/security /etc/systemd /etc/nsswitch.conf /etc/ld.so.cache \
    /etc/login.defs /etc/alternatives etc/
echo box > etc/hostname; : > etc/machine-id; rm -rf etc/systemd/system/*.wants/* etc/systemd/system/default.target
cat > etc/systemd/system/look.service <<END
[Unit]
After=systemd-logind.service dbus.service
Wants=systemd-logind.service dbus.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'systemctl --no-pager --plain --no-legend list-units --failed > /var/failed; systemctl is-active dbus systemd-journald systemd-logind > /var/active; loginctl list-seats --no-legend > /var/seats; systemctl exit 7 --force'
END
mkdir -p etc/systemd/system/multi-user.target.wants; ln -s ../look.service etc/systemd/system/multi-user.target.wants/; cd /
UNIFIED_CGROUP_HIERARCHY=1 timeout 150 systemd-nspawn --quiet --register=no --keep-unit --console=pipe -D /srv/t -b </dev/null >/dev/null 2>&1
echo code $?; cd /srv/t/var; head -50 failed active seats
"""


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--nomina", required=True)
    a.add_argument("--fixtures", default="/var/tmp/nomina-fixtures")
    a = a.parse_args()
    stage = pathlib.Path(tempfile.mkdtemp(prefix="nomina-systems."))
    stage.chmod(0o755)
    nomina = stage / "nomina"
    shutil.copy(a.nomina, nomina)
    failed = []

    def run(name, script, *wanted):
        (stage / "script").write_text(script)
        command = ["setpriv", "--reuid=nomina-test", "--regid=nomina-test", "--clear-groups", nomina, "run", "--tmpfs", "/run"]
        command += ["--bind", f"{a.fixtures}/mirror:/srv/mirror:ro", "--bind", f"{stage / 'script'}:/script:ro", "--", "bash", "/script"]
        r = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=900)
        missing = [text for text in wanted if text not in r.stdout]
        print("ok  " if not missing else "FAIL", name, flush=True)
        if missing:
            failed.append(name)
            print(f"  missing: {missing}", *(r.stdout + r.stderr).splitlines()[-30:], sep="\n  ")

    for mode in ("root", "unshare"):
        make = MMDEBSTRAP.format(mode=mode, tar="/srv/tree.tar") + "&& " + LOOK.format(tar="/srv/tree.tar")
        run(f"mmdebstrap_{mode}", make, "0/42", "-rwsr-xr-x 0/0")
    user = "useradd -m -u 1500 pod; echo pod:200000:65536 | tee /etc/subuid > /etc/subgid; " + 'su - pod -c "{}"'
    make = user.format(MMDEBSTRAP.format(mode="unshare", tar="/tmp/tree.tar")) + "; " + LOOK.format(tar="/tmp/tree.tar")
    run("mmdebstrap_unshare_of_an_ordinary_user", make, "0/42", "-rwsr-xr-x 0/0")
    run("systemd_boots_in_nspawn", BOOT, "code 7", "active\nactive\nactive\n")
    shutil.rmtree(stage)
    return 1 if failed else 0


sys.exit(main())
