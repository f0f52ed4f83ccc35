"""Unmodified programs of the distribution."""

import shutil

from harness import case, check, equal

PROJECT_FILES = 40


def c_project(t, where):
    """A generated C project of many files with a Makefile."""
    (t.dir / where).mkdir()
    for i in range(PROJECT_FILES):
        t.write(f"{where}/part{i}.c", f'#include "all.h"\nint part{i}(int x) {{ return x + {i}; }}\n')
    protos = "".join(f"int part{i}(int);\n" for i in range(PROJECT_FILES))
    t.write(f"{where}/all.h", f"#include <stdio.h>\n#include <stdlib.h>\n{protos}")
    calls = " + ".join(f"part{i}(1)" for i in range(PROJECT_FILES))
    t.write(f"{where}/main.c", f'#include "all.h"\nint main(void) {{ printf("%d\\n", {calls}); return 0; }}\n')
    t.write(f"{where}/Makefile", "OBJ := $(patsubst %.c,%.o,$(wildcard *.c))\nprog: $(OBJ)\n\tgcc -o $@ $^\n%.o: %.c all.h\n\tgcc -O1 -c -o $@ $<\nclean:\n\trm -f *.o prog\n")
    return sum(1 + i for i in range(PROJECT_FILES))


@case()
def bash(t):
    r = t.sh(r"""
set -e
shopt -s extglob nullglob
a=(one two three); declare -A m=([k]=v)
echo "${#a[@]} ${m[k]} $((6 * 7))"
diff <(printf '1\n2\n') <(printf '1\n3\n') || true
cat <<< here-string
f() { local x=$1; echo "f $x"; }; f arg
for i in {1..50}; do echo $i; done | while read n; do :; done
(exit 5) || echo "sub $?"
x=$(echo nested $(echo deeper)); echo $x
trap 'echo trapped' USR1; kill -USR1 $$
coproc cat; echo to-coproc >&${COPROC[1]}; read -r l <&${COPROC[0]}; echo $l
sleep 0.1 & wait $!; echo waited $?
set -- a b; echo $#; mapfile -t lines < <(seq 3); echo ${lines[2]}
exec 7<>/tmp/fd7; echo seven >&7; cat /tmp/fd7
time true 2>/dev/null
echo $'done\t'$BASHPID | cut -f1
""").ok()
    r.has("3 v 42", "2c2", "here-string", "f arg", "sub 5", "nested deeper", "trapped", "to-coproc", "waited 0", "seven", "done")


@case()
def dash_and_pipelines(t):
    r = t.sh("seq 100 | grep 7 | sort -rn | head -3 | tr '\\n' ' '; find /etc -name passwd; ls / | xargs -n1 echo | wc -l; (cd /usr && pwd); umask 077; touch /tmp/m; stat -c %a /tmp/m", shell="dash").ok()
    r.has("97 87 79", "/etc/passwd", "/usr\n", "600")


@case()
def busybox(t):
    r = t.run(["busybox", "sh", "-c", "ps; id; ls -la / | tail -1; wc -l < /etc/passwd; tar -cf - /etc/hosts 2>/dev/null | tar -tf -; vi --help 2>&1 | head -1; awk 'BEGIN{print 6*7}'"]).ok()
    r.has("uid=0(root)", "42", "etc/hosts")


@case()
def perl(t):
    r = t.run(["perl", "-e", r"""
use POSIX; use IO::Select; use Socket; use File::Temp 'tempdir'; use Fcntl ':flock';
my $p = fork // die; if (!$p) { exit 7 } waitpid $p, 0; print "child ", $? >> 8, "\n";
print "back ", `echo ticks`; my $d = tempdir(CLEANUP => 1); open my $f, '>', "$d/x" or die; flock $f, LOCK_EX or die; print $f "x"; close $f;
print "size ", -s "$d/x", "\n"; local $SIG{ALRM} = sub { print "alarm\n" }; alarm 1; sleep 5;
socketpair my $a, my $b, AF_UNIX, SOCK_STREAM, 0 or die; syswrite $a, "sock\n"; print scalar <$b>; opendir my $h, '/proc/self/fd'; print "fds ", scalar(grep { /\d/ } readdir $h) > 2, "\n";
system('exit 3;'); print "system ", $? >> 8, "\n"; print "euid $>\n"; exec 'echo', 'exec';
"""]).ok()
    equal(r.lines(), ["child 7", "back ticks", "size 1", "alarm", "sock", "fds 1", "system 3", "euid 0", "exec"])


@case()
def python_subprocess_and_threads(t):
    t.write("p.py", r"""
import subprocess, threading, os, sys, tempfile, signal, socket, select, queue
print(subprocess.check_output(["echo", "sub"]).decode().strip())
print(subprocess.run("cat; exit 3", shell=True, input=b"in", capture_output=True))
try: subprocess.run(["/nonexistent"])
except FileNotFoundError as e: print("ENOENT", e.errno)
try: subprocess.run(["sleep", "10"], timeout=0.2)
except subprocess.TimeoutExpired: print("timeout")
p = subprocess.Popen(["sleep", "100"], start_new_session=True); os.killpg(p.pid, signal.SIGTERM); print("killed", p.wait())
print("cwd", subprocess.check_output(["pwd"], cwd="/usr").decode().strip(), "user", subprocess.check_output(["id", "-u"], user=1000, group=1000, extra_groups=[]).decode().strip())
q = queue.Queue()
def work(n):
    with tempfile.TemporaryFile() as f:
        f.write(b"x" * n); f.seek(0); q.put(len(f.read()))
ts = [threading.Thread(target=work, args=(i * 1000,)) for i in range(50)]
[x.start() for x in ts]; [x.join() for x in ts]
print("threads", sum(q.get() for _ in ts))
a, b = socket.socketpair(); a.send(b"hi"); print(select.select([b], [], [], 1)[0] == [b], b.recv(2))
def f(s, fr): print("signal", s)
signal.signal(signal.SIGUSR1, f); os.kill(os.getpid(), signal.SIGUSR1)
print(sorted(os.listdir("/"))[:1] != [], os.getpid(), os.getcwd() == sys.argv[1])
with os.scandir("/etc") as it: print(any(e.name == "passwd" and e.is_file() for e in it))
""")
    r = t.run(["/usr/bin/python3", "p.py", t.dir]).ok()
    r.has("sub\n", "returncode=3, stdout=b'in'", "ENOENT 2", "timeout", "killed -15", "cwd /usr user 1000", "threads 1225000", "True b'hi'", "signal 10", "True 1 True")


@case(timeout=90)
def python_multiprocessing(t):
    t.write("m.py", r"""
import multiprocessing as mp, os
from multiprocessing import shared_memory
from concurrent.futures import ProcessPoolExecutor
def sq(x): return x * x
def add(v, l, n):
    for _ in range(n):
        with l: v.value += 1
if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        ctx = mp.get_context(method)
        with ctx.Pool(3) as p: print(method, sum(p.map(sq, range(100))))
        v, l = ctx.Value("i", 0), ctx.Lock()
        ps = [ctx.Process(target=add, args=(v, l, 100)) for _ in range(3)]
        [p.start() for p in ps]; [p.join() for p in ps]
        print(method, v.value, [p.exitcode for p in ps])
        q = ctx.Queue(); p = ctx.Process(target=q.put, args=("queued",)); p.start(); print(q.get(timeout=20)); p.join()
    s = shared_memory.SharedMemory(create=True, size=100); s.buf[0] = 9; print("shm", s.buf[0]); s.close(); s.unlink()
    with mp.Manager() as m: d = m.dict(); d["k"] = 1; print("manager", dict(d))
    with ProcessPoolExecutor(2) as ex: print("futures", list(ex.map(sq, [1, 2, 3])))
""")
    r = t.run(["/usr/bin/python3", "m.py"]).ok()
    for m in ("fork", "spawn", "forkserver"):
        r.has(f"{m} 328350", f"{m} 300 [0, 0, 0]")
    r.has("shm 9", "manager {'k': 1}", "futures [1, 4, 9]")


@case()
def python_asyncio(t):
    t.write("a.py", r"""
import asyncio, signal, os
async def handle(r, w):
    w.write((await r.readline()).upper()); await w.drain(); w.close()
async def main():
    s = await asyncio.start_unix_server(handle, "/tmp/async.sock")
    async def client(i):
        r, w = await asyncio.open_unix_connection("/tmp/async.sock"); w.write(b"msg%d\n" % i); l = await r.readline(); w.close(); return l
    print(len(set(await asyncio.gather(*(client(i) for i in range(50))))))
    p = await asyncio.create_subprocess_exec("sh", "-c", "echo out; exit 4", stdout=asyncio.subprocess.PIPE)
    print(await p.communicate(), p.returncode)
    ev = asyncio.Event(); asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, ev.set); os.kill(os.getpid(), signal.SIGUSR1); await ev.wait(); print("signalled")
    print(await asyncio.to_thread(os.getpid))
asyncio.run(main())
""")
    t.run(["/usr/bin/python3", "a.py"]).ok().has("50\n", "(b'out\\n', None) 4", "signalled", "1\n")


@case(timeout=180)
def gcc_and_make_build_a_project(t):
    want = c_project(t, "proj")
    r = t.sh("cd proj && make -j4 >/dev/null && ./prog && touch part3.c && make | wc -l && make clean && ls *.o 2>/dev/null | wc -l").ok()
    equal(r.lines()[0], str(want))
    equal(r.lines()[1], "2", "only the touched file is rebuilt")


@case(timeout=400, once=True)
def a_debian_source_package_builds(t):
    for f in (t.fixtures / "source").iterdir():
        shutil.copy(f, t.dir)
    r = t.sh("set -e; tar xf hello_*.orig.tar.gz; cd hello-*; ./configure --quiet --prefix=/usr/local >/dev/null 2>&1; make -j2 >/dev/null 2>&1; make install >/dev/null 2>&1; cd /; hash -r; hello; stat -c %u:%a $(command -v hello); command -v hello")
    r.ok().has("Hello, world!", "0:755", "/usr/local/bin/hello")


@case(timeout=300)
def cargo_builds_a_crate_offline(t):
    t.write("c/Cargo.toml", '[workspace]\nmembers = [".", "dep"]\n[package]\nname = "sample"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\ndep = { path = "dep" }\n')
    t.write("c/src/main.rs", 'fn main() { println!("{}", dep::twice(21)); }\n#[test]\nfn t() { assert_eq!(dep::twice(2), 4); }\n')
    t.write("c/build.rs", 'fn main() { println!("cargo:rerun-if-changed=build.rs"); }\n')
    t.write("c/dep/Cargo.toml", '[package]\nname = "dep"\nversion = "0.1.0"\nedition = "2021"\n')
    t.write("c/dep/src/lib.rs", "pub fn twice(x: u32) -> u32 { x * 2 }\n")
    opts = ["--bind", f"{t.fixtures}/rust:/opt/rust:ro", "--env", "PATH=/opt/rust/bin:/usr/bin:/bin", "--env", "CARGO_HOME=/tmp/cargo"]
    r = t.sh("cd c && cargo run --offline -q && cargo test --offline -q && cargo build --offline --release 2>&1 | tail -1", opts).ok()
    r.has("42\n", "1 passed", "Finished")


@case(timeout=180)
def git_from_init_to_gc(t):
    r = t.sh(r"""
set -e
export HOME=/tmp GIT_CONFIG_NOSYSTEM=1
git config --global user.email a@b; git config --global user.name n; git config --global init.defaultBranch main
mkdir repo && cd repo && git init -q
for i in $(seq 300); do mkdir -p d$((i % 20)); echo "$i" > d$((i % 20))/f$i; done
git add . && git commit -qm first && git status --porcelain | wc -l
git mv d1/f1 d1/moved && echo change >> d2/f2 && git commit -qam second
git checkout -q -b side HEAD~1 && echo s > side && git add side && git commit -qm side && git checkout -q main && git merge -q side -m merge
git log --oneline | wc -l
git gc -q && git fsck 2>&1 | grep -c -v dangling || true
cd .. && git clone -q repo clone && cd clone && git log --oneline | wc -l && ls d1/moved side
git stash list | wc -l; git worktree add -q ../wt HEAD~1; git -C ../wt rev-parse --is-inside-work-tree
git tag v1 && git archive v1 | tar -t | wc -l; git rebase -q HEAD~1 && echo rebased
""").ok()
    equal(r.lines()[0], "0")
    r.has("d1/moved", "side", "true", "rebased")


@case()
def sqlite3(t):
    r = t.sh(r"""
sqlite3 /tmp/db 'pragma journal_mode=wal; create table t(a integer primary key, b text); with recursive c(x) as (select 1 union all select x+1 from c where x<5000) insert into t select x, hex(randomblob(8)) from c; select count(*) from t; pragma integrity_check;'
for i in 1 2 3 4; do (for j in $(seq 20); do sqlite3 -cmd '.timeout 10000' /tmp/db "insert into t(b) values('p$i-$j')"; done) & done; wait
sqlite3 /tmp/db "select count(*) from t where b like 'p%'; begin exclusive; update t set b='x' where a=1; rollback; select b<>'x' from t where a=1; vacuum; pragma integrity_check;"
""").ok()
    equal(r.lines(), ["wal", "5000", "ok", "80", "1", "ok"])


@case(timeout=90)
def tar_rsync_and_cpio_keep_owners(t):
    r = t.sh(r"""
set -e
mkdir -p /src/sub && cd /src
echo a > a; echo b > sub/b; ln a hard; ln -s sub/b sym; mkfifo fifo; mknod null c 1 3; mknod blk b 7 9
chown 1000:2000 a; chown -h 3:4 sym; chown 5:6 sub; chmod 4751 a; chmod 1777 sub; touch -d '2001-02-03 04:05:06' sub/b
setfattr -n user.x -v y sub/b 2>/dev/null || true
list() { (cd "$1" && find . -printf '%P %y %m %U:%G %n %l %TY-%Tm\n' | grep -v '^ ' | sort | sed '/ d /s/ [0-9]* *\(20\)/ \1/' | grep -v '^sub d\|^ ' ; stat -c '%n %F %t:%T' null blk); }
list /src > /want
mkdir /t /r /c
tar -C /src -cpf - . | tar -C /t --same-owner -xpf -; list /t | diff /want - && echo tar same
rsync -aHAX --devices --specials /src/ /r/; list /r | diff /want - && echo rsync same
(cd /src && find . -depth -print0 | cpio -0 -o -H newc --quiet) | (cd /c && cpio -idm --quiet); list /c | sed 's/20..-..$//' > /tmp/c; sed 's/20..-..$//' /want | diff - /tmp/c && echo cpio same
cp -a /src /cp; list /cp | diff /want - && echo cp same
rsync -aH --delete -n -i /src/ /r/ | wc -l
cat /want
""")
    r.ok().has("tar same", "rsync same", "cpio same", "cp same", "1000:2000", "4751", "null character special file 1:3", "blk block special file 7:9")


@case()
def node(t):
    t.write("n.js", r"""
const cp = require('child_process'), fs = require('fs'), os = require('os'), path = require('path');
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (!isMainThread) { parentPort.postMessage(6 * 7); } else {
  console.log(cp.execSync('echo child').toString().trim(), os.hostname() !== '', process.pid);
  fs.writeFileSync('/tmp/x', 'hello'); console.log(fs.readFileSync('/tmp/x', 'utf8'), fs.readdirSync('/etc').includes('passwd'));
  const d = fs.mkdtempSync('/tmp/w'); const w = fs.watch(d, (e, f) => { console.log('watch', e, f); w.close(); }); setTimeout(() => fs.writeFileSync(path.join(d, 'n'), ''), 100);
  new Worker(__filename).on('message', m => console.log('worker', m));
  cp.exec('exit 5', e => console.log('code', e.code));
  process.on('SIGUSR2', () => console.log('signal')); process.kill(process.pid, 'SIGUSR2');
  const net = require('net'); const s = net.createServer(c => c.end('served')).listen('/tmp/node.sock', () => net.connect('/tmp/node.sock').on('data', x => { console.log(x.toString()); s.close(); }));
}
""")
    t.run(["/usr/bin/node", "n.js"]).ok().has("child true 1", "hello true", "watch rename n", "worker 42", "code 5", "signal", "served")


@case(timeout=240)
def a_go_program(t):
    t.write("g/go.mod", "module sample\n\ngo 1.19\n")
    t.write("g/main.go", r"""package main
import ("fmt"; "os"; "os/exec"; "os/signal"; "sync"; "syscall"; "net"; "io"; "time"; "runtime")
func main() {
	var wg sync.WaitGroup; var mu sync.Mutex; n := 0
	for i := 0; i < 200; i++ { wg.Add(1); go func() { defer wg.Done(); f, err := os.Open("/etc/passwd"); if err == nil { io.ReadAll(f); f.Close(); mu.Lock(); n++; mu.Unlock() } ; runtime.Gosched() }() }
	wg.Wait(); fmt.Println("opened", n)
	out, err := exec.Command("sh", "-c", "echo from child; exit 3").Output(); fmt.Print(string(out)); fmt.Println(err)
	c := make(chan os.Signal, 1); signal.Notify(c, syscall.SIGUSR1); syscall.Kill(os.Getpid(), syscall.SIGUSR1); fmt.Println(<-c)
	l, err := net.Listen("unix", "/tmp/go.sock"); if err != nil { panic(err) }
	go func() { c, _ := l.Accept(); c.Write([]byte("served")); c.Close() }()
	k, err := net.Dial("unix", "/tmp/go.sock"); if err != nil { panic(err) }
	b, _ := io.ReadAll(k); fmt.Println(string(b))
	defer func() { fmt.Println("recovered", recover() != nil); time.Sleep(20 * time.Millisecond); os.Exit(9) }()
	var p *int; *p = 1
}
""")
    r = t.sh("cd g && GOCACHE=/tmp/gc GOFLAGS=-mod=mod GOPROXY=off HOME=/tmp go build -o /tmp/sample . && /tmp/sample").ok(9)
    r.has("opened 200", "from child", "exit status 3", "user defined signal 1", "served", "recovered true")


@case(timeout=180)
def a_java_program(t):
    t.write("J.java", r"""import java.nio.file.*; import java.util.*; import java.util.concurrent.*;
public class J { public static void main(String[] a) throws Exception {
  ExecutorService e = Executors.newFixedThreadPool(8); List<Future<Integer>> l = new ArrayList<>();
  for (int i = 0; i < 100; i++) { int n = i; l.add(e.submit(() -> Files.readAllLines(Path.of("/etc/passwd")).size() > 0 ? n : -1000)); }
  int s = 0; for (var f : l) s += f.get(); e.shutdown(); System.out.println("sum " + s);
  Process p = new ProcessBuilder("sh", "-c", "echo child; exit 3").redirectErrorStream(true).start();
  System.out.println(new String(p.getInputStream().readAllBytes()).trim() + " " + p.waitFor());
  Path f = Files.createTempFile("x", "y"); Files.writeString(f, "text"); System.out.println(Files.readString(f) + " " + ProcessHandle.current().pid());
  try { ((String) null).length(); } catch (NullPointerException x) { System.out.println("npe"); }
  try { deep(0); } catch (StackOverflowError x) { System.out.println("overflow"); }
  byte[][] g = new byte[200][]; for (int i = 0; i < 2000; i++) g[i % 200] = new byte[100000]; System.gc(); System.out.println("gc");
  Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook"))); System.exit(6); }
  static int deep(int n) { return deep(n + 1) + 1; } }
""")
    r = t.sh("javac -d /tmp J.java && java -cp /tmp J").ok(6)
    r.has("sum 4950", "child 3", "text ", "npe", "overflow", "gc", "hook")


@case()
def vim_edits_in_batches(t):
    t.write("e.txt", "one\ntwo\n")
    t.sh("vim -u NONE -es -c '%s/two/edited/' -c wq e.txt </dev/null >/dev/null 2>&1; cat e.txt").has("edited")


@case(timeout=120)
def two_hundred_shells(t):
    t.sh("for i in $(seq 200); do sh -c true || echo bad; done; echo all").ok().has("all").lacks("bad")


@case(timeout=120)
def find_over_usr_sees_what_the_host_sees(t):
    script = "find /usr/bin /usr/include /usr/share/perl* -printf '%p %y %s %m\\n' | sort | md5sum"
    equal(t.sh(script).ok().out, t.native(["bash", "-c", script]).ok().out)


@case()
def the_machine_is_described_as_outside_and_devices_are_not(t):
    """sysfs shows processors and memory of the host, and none of its devices; programs that look for some fail cleanly."""
    # What changes from moment to moment is left out.
    steady = lambda r: [line for line in r.lines() if "MHz" not in line]
    for command in (["lscpu"], ["lscpu", "-e=CPU,NODE,SOCKET,CORE,ONLINE"], ["lscpu", "-p"], ["lscpu", "-C"], ["nproc", "--all"]):
        equal(steady(t.run(command).ok()), steady(t.native(command).ok()), " ".join(command))
    outside = t.native(["lsmem", "--summary=only"])
    equal(t.run(["lsmem", "--summary=only"]).out, outside.out, "lsmem")
    r = t.sh("lsblk; echo $?; lspci; echo $?; lsusb; echo $?; ls /sys/block /sys/bus; cat /sys/class/block/* 2>/dev/null; echo end")
    equal(r.lines(), ["0", "1", "1", "/sys/block:", "", "/sys/bus:", "end"])
    r.ok()
    check("cannot open /proc/bus/pci" in r.err.lower(), r.describe())


@case(timeout=240, once=True)
def a_directory_of_100000_entries_is_listed_changed_and_removed(t):
    r = t.sh(r"""
mkdir /tmp/many && cd /tmp/many && seq 100000 | xargs touch && ls -U | wc -l
for i in 1 50000 100000; do mv $i moved-$i; done; [ -e 50000 ] || ls -f | grep -c moved
python3 - <<'P'
import os
# Read while it changes: what is there from the beginning to the end comes once, what is removed at most once.
seen = {}
with os.scandir(".") as entries:
    for n, entry in enumerate(entries):
        seen[entry.name] = seen.get(entry.name, 0) + 1
        if n % 10 == 0 and n < 50000 and not entry.name.startswith("moved"):
            os.unlink(entry.name)
            open("new-" + entry.name, "w").close()
stayed = [name for name in os.listdir(".") if not name.startswith("new-")]
print(max(seen.values()), all(name in seen for name in stayed), len(stayed))
P
cd /; rm -r /tmp/many && ls /tmp | wc -l
""", timeout=230).ok()
    equal(r.lines(), ["100000", "3", "1 True 95000", "0"])


STRESSORS = "fork clone vfork wait kill sigq sem-sysv shm-sysv msg mq pty pthread futex pipe sigsegv".split()


@case(timeout=60, once=True)
def stress_ng_finds_nothing_wrong(t):
    """Five at once, a second for each; tests/nightly/stress.py runs each alone, for longer, and beside the host."""
    for at in range(0, len(STRESSORS), 5):
        names = STRESSORS[at : at + 5]
        r = t.run(["stress-ng", *[a for n in names for a in (f"--{n}", "1")], "--verify", "-t", "1"])
        check("successful run completed" in r.out + r.err, f"{names}: {r.describe()}")
        check("fail:" not in r.out + r.err and "error:" not in r.out + r.err, f"{names}: {r.describe()}")
