"""The way out (`--net user`): hosts by the rules, published ports, the host itself out of reach."""

import http.server
import socket
import struct
import threading

from harness import case, check, equal, wait_until

from inspector import Runtime

USER = ["--net", "user"]


class Server(http.server.ThreadingHTTPServer):
    """An HTTP server on the host's loopback device that counts its requests."""

    def __init__(self):
        outer = self
        self.asked = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                body = b"from the host " * 100_000
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


@case()
def it_is_a_device_with_a_gateway_and_a_resolver(t):
    t.sh("ip -o -4 addr show eth0; ip route; cat /etc/resolv.conf", opts=USER).ok().has(
        "inet 10.0.2.15/24", "default via 10.0.2.2 dev eth0", "nameserver 10.0.2.3"
    )
    t.sh("ip -o link; ip route").ok().lacks("eth0", "default via")


@case(timeout=120)
def apt_get_installs_from_the_hosts_mirror(t):
    """Names are resolved, connections are made without and with waiting, by a program nobody here wrote."""
    r = t.sh(
        "apt-get -qq update && apt-get -qq -y --no-install-recommends install hello >/dev/null 2>&1; hello",
        opts=USER, timeout=110,
    )
    r.ok().has("Hello, world!")


@case()
def the_host_itself_needs_a_rule_that_names_it(t):
    log = t.write("log", "")
    with Server() as server:
        ask = f"curl -sS -m 10 http://10.0.2.2:{server.port}/ | wc -c; exit ${{PIPESTATUS[0]}}"
        # By its gateway, by its name, by its own address on another device: it is the host, whatever it is called.
        t.sh(ask, opts=USER + ["--net-log", log]).ok(7)
        t.sh(ask, opts=USER + ["--allow", "*", "--allow", "0.0.0.0/0"]).ok(7)
        t.sh(ask, opts=USER + ["--allow", f"127.0.0.1:{server.port + 1}"]).ok(7)
        check(server.asked == 0, "the host's service was reached")
        t.sh(ask, opts=USER + ["--allow", f"127.0.0.1:{server.port}"]).ok().has("1400000")
        # The loopback device inside is another one.
        t.sh(f"curl -sS -m 10 http://127.0.0.1:{server.port}/", opts=USER + ["--allow", "127.0.0.1"]).ok(7)
    line = open(log).read().splitlines()[0]
    check(f"refused tcp 127.0.0.1:{server.port} by curl[" in line, line)
    check(line.endswith("this machine itself; --allow its address to reach it"), line)


@case()
def one_host_and_port_are_let_through_and_the_rest_is_refused(t):
    with Server() as server, Server() as other:
        opts = USER + ["--allow", f"127.0.0.1:{server.port}", "--net-log", "-"]
        r = t.sh(
            f"curl -sS -m 10 -o /dev/null -w '%{{http_code}}\\n' http://10.0.2.2:{server.port}/\n"
            f"curl -sS -m 10 http://10.0.2.2:{other.port}/ 2>/dev/null; echo other $?\n"
            "getent hosts secret.example.com; echo name $?",
            opts=opts,
        )
        r.ok().has("200", "other 7", "name 2")
        check(other.asked == 0, "the other service was reached")
        for line in (
            f"allowed tcp 127.0.0.1:{server.port} by curl[",
            f"refused tcp 127.0.0.1:{other.port} by curl[",
            "refused name secret.example.com by getent[",
        ):
            check(line in r.err, f"no {line!r} in\n{r.err}")
        check("no --allow matches" in r.err, r.err)
        t.sh(f"curl -sS -m 10 http://10.0.2.2:{server.port}/", opts=opts + ["--deny", "127.0.0.1"]).ok(7)


@case()
def a_connection_says_what_became_of_it(t):
    """Waiting and not waiting, refused and made, told by poll, SO_ERROR and a second connect."""
    with Server() as server, socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
        closed.close()
        r = t.run(
            [
                "python3",
                "-c",
                f"""
import errno, select, socket
def name(number): return errno.errorcode.get(number, number)
for port in ({server.port}, {port}):
    s = socket.socket()
    s.settimeout(None)
    print(name(s.connect_ex(("10.0.2.2", port))), end=" ")
    s = socket.socket()
    s.setblocking(False)
    print(name(s.connect_ex(("10.0.2.2", port))), end=" ")
    print(name(s.connect_ex(("10.0.2.2", port))) in ("EALREADY", 0, "ECONNREFUSED"), end=" ")
    print(len(select.select([], [s], [], 10)[1]), name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
s = socket.create_connection(("10.0.2.2", {server.port}))
print(s.getsockname()[0], s.getpeername() == ("10.0.2.2", {server.port}))
s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
s.shutdown(socket.SHUT_WR)
print(sum(iter(lambda: len(s.recv(65536)), 0)) > 1400000)
""",
            ],
            opts=USER + ["--allow", "127.0.0.1"],
        ).ok()
        check(r.out.splitlines()[0].startswith("0 EINPROGRESS True 1 0"), r.describe())
        check(r.out.splitlines()[1].startswith("ECONNREFUSED EINPROGRESS True 1"), r.describe())
        r.has("10.0.2.15 True", "\nTrue")


@case()
def datagrams_go_out_and_only_answers_come_back(t):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)

        def answer():
            for _ in range(2):
                data, sender = server.recvfrom(70000)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                    stranger.sendto(b"spoof", sender)
                server.sendto(data.upper(), sender)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        script = f"""
import socket
import struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(b"one", ("10.0.2.2", {port}))
print(s.recvfrom(100))
s.connect(("10.0.2.2", {port}))
s.send(b"two" * 10000)
print(len(s.recv(65536)))
try:
    s.sendto(b"x", ("10.0.2.2", 9))
except OSError as error:
    print(error.errno == 13)
"""
        r = t.run(["python3", "-c", script], opts=USER + ["--allow", f"127.0.0.1:{port}"]).ok()
        r.has(f"(b'ONE', ('10.0.2.2', {port}))", "30000", "True")


@case()
def a_published_port_leads_to_a_server_inside(t):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(("hello " + self.client_address[0]).encode())
http.server.HTTPServer(("0.0.0.0", 80), Handler).handle_request()
"""
    p = t.spawn(t.argv(["python3", "-c", script], opts=USER + ["-p", f"{port}:80"]))
    got = []

    def ask():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
                s.sendall(b"GET / HTTP/1.0\r\n\r\n")
                data = b"".join(iter(lambda: s.recv(4096), b""))
                got.append(data)
                return data.endswith(b"hello 10.0.2.2")
        except OSError:
            return False

    wait_until(ask, timeout=20, every=0.2, what=f"an answer on port {port}: {got[-1:]}")
    check(p.wait(timeout=10) == 0, "the server has failed")


@case()
def another_namespace_has_no_way_out(t):
    with Server() as server:
        t.sh(
            f"curl -sS -m 5 http://10.0.2.2:{server.port}/ >/dev/null && echo here; "
            f"unshare -n bash -c 'ip link set lo up; curl -sS -m 5 http://10.0.2.2:{server.port}/; echo there $?'",
            opts=USER + ["--allow", "127.0.0.1"],
        ).ok().has("here", "there 7")


@case()
def what_cannot_be_is_refused_before_anything_runs(t):
    for opts, words in (
        (["--allow", "example.com"], "--net user"),
        (["-p", "8080:80"], "--net user"),
        (USER + ["--allow", "example.com:http"], "not a port"),
        (USER + ["-p", "1:80"], "choose a port that is free"),
        (USER + ["--net-log", "/nowhere/log"], "net-log /nowhere/log"),
        (["--net", "bridge"], "not a network"),
    ):
        r = t.run(["true"], opts=opts)
        check(r.code in (2, 125) and words in r.err, r.describe())


@case()
def a_published_udp_port_is_answered_from(t):
    """Two clients at once, each gets its answer from the port it has asked; `-p 0:…` says which port the host has chosen."""
    script = """
import socket
import struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 53))
asked = [s.recvfrom(100) for _ in range(2)]
for data, who in reversed(asked):
    s.sendto(data + who[0].encode(), who)
try:
    s.sendto(b"x", ("10.0.2.2", 9))
except OSError as error:
    print("a stranger:", error.errno)
"""
    p = t.spawn(t.argv(["python3", "-c", script], opts=USER + ["-p", "0:53/udp", "-p", "0:80"]), text=True)
    notes = [p.stderr.readline() for _ in range(2)]
    port = int(notes[0].split("published 127.0.0.1:")[1].split(":53/udp")[0])
    check(":80/tcp" in notes[1], notes)
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    got = {}

    def ask():
        for n, client in enumerate(clients):
            if n not in got:
                client.settimeout(0.3)
                try:
                    client.sendto(f"{n} ".encode(), ("127.0.0.1", port))
                    got[n] = client.recvfrom(100)
                except OSError:
                    pass
        return len(got) == 2

    wait_until(ask, timeout=20, every=0.1, what=f"answers: {got}")
    for n in got:
        check(got[n] == (f"{n} 10.0.2.2".encode(), ("127.0.0.1", port)), f"{got}")
    out, err = p.communicate(timeout=10)
    check((p.returncode, out) == (0, "a stranger: 13\n"), out + err)


@case()
def a_reset_is_told_on_both_sides(t):
    """Of connections outwards and inwards: after the data, ECONNRESET and then the end; and SO_LINGER resets outwards."""
    linger = struct.pack("ii", 1, 0)
    seen = []

    def serve(listener):
        first, _ = listener.accept()
        first.recv(1)
        first.sendall(b"data")
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        first.close()
        second, _ = listener.accept()
        second.sendall(b"unread")
        try:
            while second.recv(100):
                pass
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")
        seen.append(second.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as free:
        port, published = listener.getsockname()[1], free.getsockname()[1]
        free.close()
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        script = f"""
import select, socket, time
def drain(s):
    got = b""
    try:
        while data := s.recv(100):
            got += data
        return got, "end"
    except ConnectionResetError:
        return got, "reset", s.recv(1)
s = socket.create_connection(("10.0.2.2", {port}))
s.send(b"x")
print(drain(s))
s = socket.create_connection(("10.0.2.2", {port}))
select.select([s], [], [], 10)
s.close()
listener = socket.create_server(("0.0.0.0", 80))
print("listens", flush=True)
s, _ = listener.accept()
s.send(b"accepted")
print(drain(s))
"""
        p = t.spawn(t.argv(["python3", "-c", script], opts=USER + ["--allow", "127.0.0.1", "-p", f"{published}:80"]), text=True)
        check(p.stdout.readline() == "(b'data', 'reset', b'')\n", "a reset from outside")
        check(p.stdout.readline() == "listens\n", "no listener")
        with socket.create_connection(("127.0.0.1", published)) as client:
            check(client.recv(100) == b"accepted", "the server has not accepted")
            client.sendall(b"hello")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        out, err = p.communicate(timeout=10)
        check(out.endswith("(b'hello', 'reset', b'')\n"), out + err)
        thread.join(5)
    check(seen[:1] == ["reset"], seen)


@case()
def streams_are_long_and_closed_by_halves(t):
    """Each way 400 kB while nobody reads at first, in 20 connections at once; the answer comes after the half that is closed."""

    def serve(connection):
        with connection:
            threading.Event().wait(0.3)
            size = sum(iter(lambda: len(connection.recv(1 << 16)), 0))
            connection.sendall(b"y" * size)

    def accept(listener):
        while True:
            threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        threading.Thread(target=accept, args=[listener], daemon=True).start()
        script = f"""
import concurrent.futures, socket, time
def one(n):
    s = socket.create_connection(("10.0.2.2", {listener.getsockname()[1]}))
    s.sendall(b"x" * 400_000)
    s.shutdown(socket.SHUT_WR)
    time.sleep(0.2)
    return sum(iter(lambda: len(s.recv(65536)), 0))
with concurrent.futures.ThreadPoolExecutor(20) as pool:
    print(sum(pool.map(one, range(20))))
"""
        t.run(["python3", "-c", script], opts=USER + ["--allow", "127.0.0.1"], timeout=40).ok().has("8000000")


@case()
def who_enters_shares_the_network_and_nothing_else_if_he_likes(t):
    """A program in namespaces of its own but for the network: the server's ports, the way out and its rules are there."""
    r = Runtime(t)
    with Server() as server:
        r.start("net", ["python3", "-m", "http.server", "8000"], USER + ["-p", "0:8000", "--allow", f"127.0.0.1:{server.port}"])
        enter = ["exec", "net", "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "sh", "-c"]
        ask = f"curl -sS --retry 20 --retry-connrefused --retry-delay 1 -w '%{{http_code}} ' -o /dev/null http://127.0.0.1:8000/ -o /dev/null http://10.0.2.2:{server.port}/"
        got = r.nomina(*enter, f"{ask}; ls -d /proc/[0-9]* | wc -l | tr -d '\\n'", timeout=30).ok().out
        equal(got.split()[:2], ["200", "200"], "inside and outside")
        check(int(got.split()[2]) < 6, f"processes of others are seen: {got}")
        equal(server.asked, 1, "the host's service")
        published = r.json("ps", "net")[0]["published"][0]
        with socket.create_connection(("127.0.0.1", published["host_port"]), timeout=10) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            check(s.recv(20).startswith(b"HTTP/1.0 200"), "the port that ps tells")
        equal((published["protocol"], published["guest_port"]), ("tcp", 8000), "published")
