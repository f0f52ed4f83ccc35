"""The host's network by the rules (`--net host`): shown as it is, not changed, and reached no further than with `--net user`."""

import socket
import threading

from harness import case, check, equal, wait_until

from net_user import Server

HOST = ["--net", "host"]


def own_address():
    """An address of this machine that is not the loopback device's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.254", 9))
        return s.getsockname()[0]


@case()
def the_hosts_devices_are_shown_and_cannot_be_changed(t):
    show = "ip -br link | awk '{print $1, $3}'; ip -br addr | awk '{$2 = \"\"; print}'; ip route; ip -6 route"
    equal(t.sh(show, opts=HOST).ok().out, t.native(["bash", "-c", show]).out, "the host's network")
    device = t.native(["bash", "-c", "ip -br link | awk '$1 != \"lo\" {print $1; exit}'"]).out.strip()
    r = t.sh(
        f"for c in 'link set {device} down' 'link set lo down' 'addr add 10.9.9.9/24 dev {device}' 'route add 10.1.0.0/16 dev {device}' "
        "'link add name d0 type dummy'; do ip $c 2>&1; done; "
        f"ip link set {device} netns 1 2>&1; "
        "(echo 1 > /proc/sys/net/ipv4/ip_forward) 2>&1 | grep -o 'peration not permitted'; "
        "python3 -c 'import socket; socket.create_server((\"\", 1))' 2>&1 | grep -o 'Permission denied'; "
        "unshare -n sh -c 'ip link set lo up && ip -br addr' | tr -s ' '",
        opts=HOST,
    )
    lines = r.lines()
    equal(lines[:6], ["RTNETLINK answers: Operation not permitted"] * 6, "changes" + r.describe())
    equal(lines[6:8], ["peration not permitted", "Permission denied"], "sysctl and port" + r.describe())
    check(lines[8].startswith("lo UNKNOWN 127.0.0.1/8"), r.describe())


@case()
def the_hosts_own_services_need_a_rule(t):
    """By loopback address and by its own; what listens inside is found first, by both."""
    own = own_address()
    with Server() as server:
        ask = f"curl -sS -m 10 -o /dev/null -w '%{{http_code}} %{{local_ip}}\\n' http://127.0.0.1:{server.port}/"
        log = t.write("log", "")
        r = t.sh(f"{ask}; echo $?; curl -sS -m 5 http://{own}:{server.port}/; echo $?", opts=HOST + ["--net-log", log, "--allow", "*"])
        equal([line.split()[0] for line in r.lines()], ["000", "7", "7"], "refused")
        check(server.asked == 0, "the host's service was reached")
        check(f"refused tcp 127.0.0.1:{server.port} by curl[" in open(log).read(), open(log).read())
        t.sh(ask, opts=HOST + ["--allow", f"127.0.0.1:{server.port}"]).ok().has("200 127.0.0.1")
        script = f"""
import socket, threading
with socket.create_server(("", {server.port})) as s:
    threading.Thread(target=lambda: [s.accept()[0].send(b"inside") for _ in range(2)], daemon=True).start()
    for host in "127.0.0.1", "{own}":
        c = socket.create_connection((host, {server.port}))
        print(c.recv(10), c.getsockname()[0] == host, c.getpeername() == (host, {server.port}))
"""
        r = t.run(["python3", "-c", script], opts=HOST + ["--allow", f"127.0.0.1:{server.port}"]).ok()
        equal(r.lines(), ["b'inside' True True"] * 2, "inside first")


@case()
def sockets_tell_the_hosts_addresses(t):
    """getsockname(2) tells what the other side sees, of TCP and of UDP; a chosen port is the host's; answers come from who was asked."""
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))

        def serve():
            for _ in range(2):
                connection, peer = listener.accept()
                seen.append(peer)
                connection.close()
            data, peer = udp.recvfrom(100)
            seen.append(peer)
            udp.sendto(data.upper(), peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            chosen = probe.getsockname()[1]
        tcp_port, udp_port = listener.getsockname()[1], udp.getsockname()[1]
        script = f"""
import socket
for source in (None, ("127.0.0.1", {chosen})):
    s = socket.create_connection(("127.0.0.1", {tcp_port}), source_address=source)
    print(s.getsockname(), s.getpeername())
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(b"hello", ("127.0.0.1", {udp_port}))
print(("127.0.0.1", s.getsockname()[1]), s.recvfrom(100))
s.connect(("127.0.0.1", {udp_port % 65535 + 1}))
s.send(b"x")
try: s.recvfrom(1)
except OSError as e: print(e.errno)
"""
        rules = ["--allow", f"127.0.0.1:{tcp_port}", "--allow", f"127.0.0.1:{udp_port}"]
        r = t.run(["python3", "-c", script], opts=HOST + rules).ok()
        thread.join(5)
        equal(len(seen), 3, "connections")
        want = [f"{seen[0]} {('127.0.0.1', tcp_port)}", f"{seen[1]} {('127.0.0.1', tcp_port)}", f"{seen[2]} {(b'HELLO', ('127.0.0.1', udp_port))}", "111"]
        equal(r.lines(), want, "names")
        equal(seen[1][1], chosen, "the chosen port")


@case()
def names_are_resolved_by_the_hosts_resolver(t):
    """The names in rules are what the sandbox has resolved, as with --net user; others are not asked for."""
    r = t.sh(
        "getent ahostsv4 deb.debian.org >/dev/null; echo $?; getent hosts secret.example.com; echo $?; cat /etc/resolv.conf",
        opts=HOST + ["--allow", "deb.debian.org:80", "--net-log", "-"],
    )
    equal(r.lines()[:2], ["0", "2"], r.describe())
    check("refused name secret.example.com" in r.err, r.err)
    t.sh("curl -sS -m 20 -o /dev/null -w '%{http_code}\\n' http://deb.debian.org/debian/", opts=HOST + ["--allow", "deb.debian.org:80"]).ok().has("200")


@case()
def a_published_port_is_reached_under_the_hosts_address(t):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = f"""
import socket
s, peer = socket.create_server(("127.0.0.1", 7000)).accept()
print(peer[0], s.getsockname())
s.send(b"hello")
"""
    p = t.spawn(t.argv(["python3", "-c", script], opts=HOST + ["-p", f"{port}:7000"]), text=True)

    def ask():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
                return s.recv(100) == b"hello"
        except OSError:
            return False

    wait_until(ask, timeout=20, every=0.2, what="an answer")
    equal(p.communicate(timeout=10)[0], "127.0.0.1 ('127.0.0.1', 7000)\n", "names")
