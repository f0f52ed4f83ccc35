"""Programs of the distribution over the inner loopback device."""

from harness import case

# Waits until something listens at a port of 127.0.0.1.
UP = "up() { for i in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.1; done; echo port $1 is not up; }\n"


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
        t.sh(f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>&1; python3 -m http.server {port} --bind 127.0.0.1 & sleep 0.5; (exec 3<>/dev/tcp/127.0.0.1/{port}) && echo own; kill %1").ok().has("refused", "own")
