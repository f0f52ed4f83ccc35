"""Servers and clients of the distribution over the inner loopback device: a database, Go's and Python's own servers, Git."""

from harness import case, equal

from net import UP


@case(timeout=120)
def postgresql_over_tcp(t):
    """A server of an ordinary user inside; pgbench with two clients, psql by both versions of IP."""
    r = t.sh(UP + r"""
bin=$(echo /usr/lib/postgresql/*/bin | tail -1); useradd -m pg; cd /home/pg
su pg -c "$bin/initdb -D d -A trust --no-sync >/dev/null && $bin/pg_ctl -D d -w -o '-p 5439 -h 127.0.0.1,::1 -k /tmp -c fsync=off' -l log start >/dev/null" || cat log
pgbench -q -i -h 127.0.0.1 -p 5439 -U pg postgres >/dev/null 2>&1
pgbench -h 127.0.0.1 -p 5439 -U pg -c 2 -t 100 postgres 2>/dev/null | grep -E "actually processed"
for host in 127.0.0.1 ::1; do psql -h $host -p 5439 -U pg -Atc 'select inet_client_addr(), count(*) from pgbench_accounts' postgres; done
su pg -c "$bin/pg_ctl -D d -m fast stop >/dev/null"
psql -h 127.0.0.1 -p 5439 -U pg -c '' postgres 2>&1 | grep -c refused
""").ok()
    lines = r.lines()
    equal(lines[0].split(":")[1].strip(), "200/200", "transactions")
    equal(lines[1:], ["127.0.0.1|100000", "::1|100000", "1"], "psql")


@case(timeout=120)
def a_go_http_server(t):
    """net/http on both sides: 20 clients that keep connections, one that goes early, a body by parts, a graceful end."""
    t.write("g/go.mod", "module g\n\ngo 1.18\n")
    t.write("g/main.go", r"""package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

func main() {
	gone := make(chan error, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { body, _ := io.ReadAll(r.Body); w.Write(body) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done(); gone <- r.Context().Err() })
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: mux}
	done := make(chan error)
	go func() { done <- server.Serve(listener) }()
	url := "http://" + listener.Addr().String()
	var wait sync.WaitGroup
	var mutex sync.Mutex
	total := 0
	for client := 0; client < 20; client++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := 0; i < 20; i++ {
				answer, err := http.Post(url+"/echo", "text/plain", io.MultiReader(strings.NewReader(strings.Repeat("x", 50000)), strings.NewReader("y")))
				if err != nil {
					fmt.Println(err)
					return
				}
				body, _ := io.ReadAll(answer.Body)
				answer.Body.Close()
				mutex.Lock()
				total += len(body)
				mutex.Unlock()
			}
		}()
	}
	wait.Wait()
	fmt.Println("echoed", total)
	impatient := http.Client{Timeout: 100 * time.Millisecond}
	_, err = impatient.Get(url + "/slow")
	fmt.Println("timed out", err != nil, <-gone)
	server.Shutdown(context.Background())
	fmt.Println(<-done)
	_, err = net.Dial("tcp", listener.Addr().String())
	fmt.Println("refused", err != nil && strings.Contains(err.Error(), "connection refused"))
}
""")
    r = t.sh("cd g && GOCACHE=/tmp/gc GOFLAGS=-mod=mod GOPROXY=off HOME=/tmp go build -o /tmp/server . && /tmp/server").ok()
    equal(r.lines(), ["echoed 20000400", "timed out true context canceled", "http: Server closed", "refused true"], "go")


@case(timeout=120)
def git_clones_over_http(t):
    """The smart protocol through git http-backend below python's CGI server, and the dumb one; pushing needs the first."""
    r = t.sh(UP + r"""
export HOME=/tmp GIT_CONFIG_NOSYSTEM=1; cd /tmp
git config --global user.email a@b; git config --global user.name n; git config --global init.defaultBranch main
git init -q --bare srv/r.git; git -C srv/r.git config http.receivepack true
git init -q w; cd w; for i in $(seq 50); do echo $i > f$i; done; git add .; git commit -qm one; git push -q ../srv/r.git main; cd ..
git -C srv/r.git update-server-info; mkdir -p srv/cgi-bin
cat > srv/cgi-bin/git <<'S'
#!/bin/sh
export GIT_PROJECT_ROOT=/tmp/srv GIT_HTTP_EXPORT_ALL=1
exec git http-backend
S
chmod +x srv/cgi-bin/git
(cd srv; exec python3 -m http.server --cgi --bind 127.0.0.1 8000 >/dev/null 2>&1) & up 8000
git clone -q http://127.0.0.1:8000/cgi-bin/git/r.git smart && ls smart | wc -l
git clone -q http://127.0.0.1:8000/r.git dumb && ls dumb | wc -l
cd smart; git -c http.postBuffer=100000000 commit -q --allow-empty -m two && git push -q && git -C ../srv/r.git log --format=%s main
kill %1
""", opts=["--user", "1000:1000"]).ok()
    equal(r.lines(), ["50", "50", "two", "one"], "git")


@case()
def asyncio_over_tls(t):
    """A certificate of openssl's, 40 clients at once, one that does not trust it, one that speaks no TLS."""
    r = t.sh(r"""
cd /tmp; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout k -out c -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
cat > s.py <<E
import asyncio, ssl
async def main():
    async def serve(reader, writer):
        data = await reader.readexactly(100_000); writer.write(data[::-1]); await writer.drain(); writer.close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain("c", "k")
    server = await asyncio.start_server(serve, "localhost", 0, ssl=context, backlog=100)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile="c")
    async def one(n):
        reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
        data = bytes([n]) * 99_999 + b"!"
        writer.write(data); got = await reader.read(-1); writer.close()
        return got == data[::-1]
    print(all(await asyncio.gather(*[one(n) for n in range(40)])))
    try:
        await asyncio.open_connection("localhost", port, ssl=ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        print("distrusts", error.verify_message)
    reader, writer = await asyncio.open_connection("localhost", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    try: print(await reader.read(100) != b"GET")
    except ConnectionResetError: print(True)
asyncio.run(main())
E
python3 s.py
""").ok()
    equal(r.lines(), ["True", "distrusts self-signed certificate", "True"], "tls")


@case()
def node_asks_itself_over_kept_connections(t):
    """A server and an agent with five kept sockets, 200 requests; a stream that the client breaks off; IPv6."""
    r = t.sh(r"""
cat > /tmp/n.js <<'E'
const http = require("http");
const server = http.createServer((q, r) => q.url == "/endless" ? (q.on("close", () => console.log("broken off")), (function more() { while (r.write("x".repeat(65536))) ; r.once("drain", more); })()) : q.pipe(r));
const agent = new http.Agent({ keepAlive: true, maxSockets: 5 });
const ask = (host, body) => new Promise((done, failed) => { const q = http.request({ host, port: server.address().port, agent, method: "POST" }, r => { let n = 0; r.on("data", d => n += d.length); r.on("end", () => done(n)); }); q.on("error", failed); q.end(body); });
server.listen(0, "::", async () => {
  const got = await Promise.all(Array.from({ length: 200 }, (_, n) => ask(n % 2 ? "127.0.0.1" : "::1", "y".repeat(1000 * n))));
  console.log(got.every((n, i) => n == 1000 * i));
  http.get({ port: server.address().port, path: "/endless" }, r => { r.once("data", () => r.destroy()); r.on("close", () => setTimeout(() => process.exit(0), 200)); });
});
E
node /tmp/n.js
""").ok()
    equal(r.lines(), ["true", "broken off"], "node")
