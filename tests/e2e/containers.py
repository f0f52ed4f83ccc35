"""Whole programs that make and run other systems: debootstrap, and packages installed into what it made."""

from harness import case


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
