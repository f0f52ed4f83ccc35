"""Programs of the distribution over the inner loopback device."""

from harness import case, equal

# Waits until something listens at a port of 127.0.0.1.
UP = "up() { for i in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.1; done; echo port $1 is not up; false; }\n"


@case()
def python_http_server_and_curl(t):
    """A file comes over HTTP, by name, by both versions of IP; a closed port is refused."""
    r = t.sh(UP + r"""
cd /tmp; head -c 3000000 /dev/urandom > f; sha256sum < f
python3 -m http.server 8000 --bind :: >/dev/null 2>&1 &
up 8000
for host in 127.0.0.1 localhost '[::1]'; do curl -sS http://$host:8000/f | sha256sum; done
curl -s http://localhost:8001/; echo "refused $?"
curl -sS http://192.0.2.1/; echo "unreachable $?"
kill %1
""").ok()
    sums = [line for line in r.lines() if line.endswith(" -")]
    assert len(sums) == 4 and len(set(sums)) == 1, r.describe()
    r.has("refused 7", "unreachable 7")


@case()
def host_services_are_out_of_reach(t):
    """What listens on the host's loopback device is not there inside, nor the other way round."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>&1; python3 -m http.server {port} --bind 127.0.0.1 & up {port} && echo own; kill %1"
        t.sh(UP + script).ok().has("refused", "own")


@case(timeout=120)
def web_and_data_servers(t):
    """nginx under wrk, redis under its benchmark, a server of node's, and one of python's with 300 clients at once."""
    r = t.sh(UP + r"""
cd /tmp; mkdir w; echo hello-file > w/f.txt
cat > n.conf <<E
daemon off; pid /tmp/n.pid; error_log /tmp/n.err; events { worker_connections 256; } user root;
http { access_log off; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
server { listen 127.0.0.1:8080; listen [::1]:8080; root /tmp/w; } }
E
nginx -c /tmp/n.conf & up 8080
curl -sS http://127.0.0.1:8080/f.txt; curl -sS 'http://[::1]:8080/f.txt'
wrk -t1 -c20 -d2 http://127.0.0.1:8080/f.txt | grep -E "requests in|Socket|Non-2xx" | sed 's/^ *[0-9]* requests in.*/wrk done/'
kill $(cat n.pid)
redis-server --port 6380 --save '' >/dev/null 2>&1 & up 6380
redis-benchmark -p 6380 -n 2000 -c 20 -q -t get | grep -c 'requests per second'; redis-cli -p 6380 shutdown nosave
node -e 'const h=require("http");const s=h.createServer((q,r)=>r.end("node-ok"));s.listen(0,()=>h.get({port:s.address().port},r=>{r.on("data",d=>console.log(""+d));r.on("end",()=>process.exit(0))}))'
python3 - <<E
import asyncio
async def serve(r, w):
    d = await r.read(100); w.write(d.upper()); await w.drain(); w.close()
async def main():
    s = await asyncio.start_server(serve, 'localhost', 0)
    p = s.sockets[0].getsockname()[1]
    async def one():
        r, w = await asyncio.open_connection('localhost', p); w.write(b'abc'); w.write_eof(); d = await r.read(); w.close(); return d
    print(set(await asyncio.gather(*[one() for _ in range(300)])))
asyncio.run(main())
E
""").ok()
    equal(r.lines()[:3], ["hello-file", "hello-file", "wrk done"], "nginx")
    r.has("\n1\n", "node-ok", "{b'ABC'}").lacks("Socket errors", "Non-2xx")


@case()
def throughput_and_simple_servers(t):
    """iperf3 over TCP and UDP, socat and nc as servers of both."""
    r = t.sh(UP + r"""
iperf3 -s -1 -p 5201 >/dev/null 2>&1 & sleep 1.5; iperf3 -c 127.0.0.1 -p 5201 -t 1 | grep -c receiver
iperf3 -s -1 -p 5202 >/dev/null 2>&1 & sleep 1.5; iperf3 -u -b 50M -c 127.0.0.1 -p 5202 -t 1 | grep -c receiver
socat TCP-LISTEN:9000,reuseaddr EXEC:'echo from-socat' & sleep 1; socat - TCP:127.0.0.1:9000 </dev/null
socat UDP-RECVFROM:9001 EXEC:'echo udp-answer' & sleep 1; echo q | timeout 4 socat - UDP:127.0.0.1:9001
(echo nc-hello | timeout 5 nc -l 127.0.0.1 9002 &) ; sleep 1; timeout 3 nc -d 127.0.0.1 9002; true
""").ok()
    equal(r.lines()[:2], ["1", "1"], "iperf3")
    r.has("from-socat", "udp-answer", "nc-hello")
