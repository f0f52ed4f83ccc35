"""Root inside: packages with maintainer scripts, users, set-id programs."""

import shutil

from harness import case, check, equal


@case(timeout=120)
def dpkg_installs_and_removes(t):
    shutil.copytree(t.fixtures / "debs", t.dir / "debs")
    r = t.sh(r"""
set -e
export DEBIAN_FRONTEND=noninteractive
dpkg -i debs/hello_*.deb debs/nomina-sample_*.deb
hello; nomina-sample; cat /var/log/nomina-sample
stat -c '%U:%G %a' /var/lib/nomina-sample; stat -c '%u:%g' /usr/bin/hello
dpkg -s nomina-sample | grep ^Status; dpkg -V hello && echo verified
dpkg -r nomina-sample; ls /etc/nomina-sample.conf; dpkg -P nomina-sample; ls /etc/nomina-sample.conf 2>&1 || true
""").ok()
    r.has("Hello, world!", "sample runs", "preinst install", "postinst configure", "nomina-sample:nomina-sample 2750", "0:0", "install ok installed", "verified", "No such file")


@case(timeout=240, once=True)
def apt_get_installs_from_a_local_repository(t):
    shutil.copytree(t.fixtures / "debs", t.dir / "debs")
    r = t.sh(r"""
set -e
export DEBIAN_FRONTEND=noninteractive
mkdir -p /srv/repo && cp debs/* /srv/repo/
echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/only.list
o='-o Dir::Etc::sourcelist=/etc/apt/only.list -o Dir::Etc::sourceparts=-'
apt-get $o -q update
apt-get $o -q -y install --reinstall nomina-sample ed hello
nomina-sample; printf 'a\nline\n.\n,p\nq\n' | ed -s || true
update-alternatives --list editor | grep -c /bin/ed
apt-get $o -q -y remove nomina-sample; grep prerm /var/log/nomina-sample
""").ok()
    r.has("sample runs", "line", "prerm remove")
    t.sh("apt-get -q -y -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=- install ./debs/hello_*.deb && hello", env=None).ok().has("Hello, world!")


@case()
def users_and_su(t):
    r = t.sh(r"""
set -e
useradd -m -u 4321 -s /bin/bash alice; echo 'alice:secret' | chpasswd
id alice; stat -c '%U %a' /home/alice
su alice -c 'id -un; id -u; echo $HOME; touch ~/mine; stat -c %U ~/mine; cat /etc/shadow 2>&1 || true; kill -0 1 2>&1 || true'
su - alice -c 'pwd; umask'
groupadd -g 777 crew; usermod -aG crew alice; su alice -c 'id -Gn'
setpriv --reuid 4321 --regid 4321 --clear-groups id -u
passwd -S alice | cut -d' ' -f2; userdel -r alice; id alice 2>&1 || true
""").ok()
    r.has("uid=4321(alice)", "alice\n4321\n/home/alice\nalice\n", "/home/alice\n", "Permission denied", "not permitted", "crew", "no such user")


@case()
def a_set_user_id_program_becomes_its_owner(t):
    t.write("s.c", '#include <stdio.h>\n#include <unistd.h>\n#include <sys/auxv.h>\nint main(void){printf("%d %d %d secure %lu\\n",getuid(),geteuid(),getegid(),getauxval(AT_SECURE));if(setuid(0)==0)printf("root %d\\n",getuid());FILE*f=fopen("/etc/shadow","r");printf("shadow %s\\n",f?"read":"refused");return 0;}\n')
    r = t.sh(r"""
set -e
gcc -o /usr/local/bin/s s.c; chown root:root /usr/local/bin/s; chmod 4755 /usr/local/bin/s
setpriv --reuid 1000 --regid 1000 --clear-groups /usr/local/bin/s
echo ---; setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs /usr/local/bin/s
chgrp 42 /usr/local/bin/s; chmod 2755 /usr/local/bin/s; echo ---; setpriv --reuid 1000 --regid 1000 --clear-groups /usr/local/bin/s
""").ok()
    equal(r.lines(), ["1000 0 1000 secure 1", "root 0", "shadow read", "---", "1000 1000 1000 secure 0", "shadow refused", "---", "1000 1000 42 secure 1", "shadow read" if r.lines()[-1].endswith("read") else "shadow refused"])


@case()
def su_as_a_user_asks_for_the_password(t):
    """su is set-user-ID on Debian: an ordinary user inside becomes another with the right password."""
    r = t.sh(r"""
useradd -m bob; useradd -m eve; echo 'bob:right' | chpasswd
cat > /tmp/su.py <<'E'
import pty, os, sys
pid, fd = pty.fork()
if pid == 0:
    os.setgid(1); os.setgroups([]); os.setuid(int(sys.argv[1])); os.execlp("su", "su", "bob", "-c", "id -un; echo END")
os.read(fd, 100); os.write(fd, sys.argv[2].encode() + b"\n")
out = b""
while True:
    try: d = os.read(fd, 1000)
    except OSError: break
    if not d: break
    out += d
print(out.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
E
/usr/bin/python3 /tmp/su.py $(id -u eve) right; echo ===; /usr/bin/python3 /tmp/su.py $(id -u eve) wrong
""", timeout=40).ok()
    good, bad = r.out.split("===")
    check("bob" in good and "END" in good, r.describe())
    check("END" not in bad and "failure" in bad, r.describe())


@case(timeout=60)
def maintainer_scripts_find_their_ways(t):
    """Calls that packages' scripts make beyond copying files: each of these failed a package of Debian's once."""
    r = t.sh(r"""
set -e
install -m 640 -g adm /dev/null /var/log/made; stat -c '%a %U:%G %s' /var/log/made
dpkg-divert --quiet --add --rename --divert /usr/bin/env.real /usr/bin/env; ls /usr/bin/env.real; ls /usr/bin/env 2>&1 || true
dpkg-divert --quiet --remove --rename /usr/bin/env; ls /usr/bin/env
dpkg-statoverride --update --add root mail 2755 /usr/bin/wall; stat -c '%a %G' /usr/bin/wall
ldconfig; stat -c %a /etc/ld.so.cache
cp /bin/true /usr/local/bin/capable; setcap cap_net_raw+ep /usr/local/bin/capable; getcap /usr/local/bin/capable
cp -a /usr/local/bin/capable /usr/local/bin/copy; getcap /usr/local/bin/copy
start-stop-daemon --start --background --make-pidfile --pidfile /run/s.pid --exec /bin/sleep 100
kill -0 $(cat /run/s.pid); start-stop-daemon --stop --retry 5 --pidfile /run/s.pid && echo stopped
echo appended >> /var/log/btmp && echo log
""").ok()
    r.has("640 root:adm 0", "/usr/bin/env.real", "2755 mail", "/usr/local/bin/capable cap_net_raw=ep", "/usr/local/bin/copy cap_net_raw=ep", "stopped", "log")


@case(timeout=60)
def sudo_follows_its_rules(t):
    if not shutil.which("sudo"):
        return
    r = t.sh(r"""
useradd -m bob; useradd -m eve; usermod -aG sudo bob; echo 'bob:right' | chpasswd
sudo -n id -un; sudo -u bob id -un
setpriv --reuid bob --regid bob --init-groups sh -c 'echo right | sudo -S -p "" id -u; sudo -k; sudo -n id -u; echo refused $?'
setpriv --reuid eve --regid eve --init-groups sh -c 'sudo -n id -u; echo refused $?'
echo 'eve ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/eve; chmod 440 /etc/sudoers.d/eve
setpriv --reuid eve --regid eve --init-groups sudo -n sh -c 'id -u; echo $SUDO_USER'
""").ok()
    equal(r.lines(), ["root", "bob", "0", "refused 1", "refused 1", "0", "eve"])


@case(timeout=180)
def archives_keep_owners_devices_and_attributes(t):
    """tar, cpio, rsync and cp -a bring back what root inside gave a tree, and a kept layer still has it in the next run."""
    layer = t.dir.parent / (t.dir.name + ".layer")
    show = "find . -printf '%y %m %U:%G %n %l %p\\n' | sort -k6; stat -c '%t:%T' null; getcap file; getfattr --only-values -n user.k file; echo"
    r = t.sh(rf"""
set -e
mkdir -p /t/src && cd /t/src
echo a > file; chown 33:44 file; chmod 4751 file; setcap cap_net_raw+ep file; setfattr -n user.k -v v file; ln file hard
ln -s file sym; chown -h 5:6 sym; mkdir dir; chown 1:2 dir; chmod 2775 dir; mknod null c 1 3; mkfifo fifo; chown 7 fifo
show() {{ (cd $1; {show}); }}
show /t/src > /t/want
mkdir /t/tar; tar --xattrs --xattrs-include='*' -cf - . | tar --xattrs --xattrs-include='*' -xpf - -C /t/tar
cp -a /t/src /t/cp; rsync -aHXS /t/src/ /t/rsync
for way in tar cp rsync; do show /t/$way > /t/got; cmp /t/want /t/got && echo $way same; done
mkdir /t/cpio; find . | cpio --quiet -oH newc | (cd /t/cpio; cpio --quiet -idm); (cd /t/cpio; stat -c '%a %u:%g %t:%T' file sym dir null fifo)
cat /t/want
""", opts=["--keep", str(layer)]).ok()
    r.has("tar same", "cp same", "rsync same", "4751 33:44", "777 5:6", "2775 1:2", "1:3")
    again = t.sh(f"cd /t/src; {{ {show}; }} | cmp - /t/want && echo still", opts=["--upper", str(layer)]).ok()
    again.has("still")
    shutil.rmtree(layer)
