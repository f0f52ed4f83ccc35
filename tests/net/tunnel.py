# Two namespaces with a TUN device each, and a program that carries packets between them.
import ctypes, fcntl, os, select, socket, struct, subprocess, sys, threading, time
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
libc = ctypes.CDLL(None, use_errno=True)

def tun(name, address):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "addr", "add", address, "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    return fd

os.makedirs("/tmp/w", exist_ok=True)
open("/tmp/w/f", "wb").write(os.urandom(1 << 20))
ours, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    if libc.unshare(0x40000000): sys.exit("unshare")
    fd = tun("tunb", "10.9.0.2/24")
    socket.send_fds(theirs, [b"x"], [fd])
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("10.9.0.2", 5000))
    def echo():
        while True:
            data, who = udp.recvfrom(2000); udp.sendto(data.upper(), who)
    threading.Thread(target=echo, daemon=True).start()
    os.chdir("/tmp/w")
    import http.server
    http.server.ThreadingHTTPServer(("10.9.0.2", 8000), type("H", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})).serve_forever()
a = tun("tuna", "10.9.0.1/24")
_, fds, _, _ = socket.recv_fds(ours, 1, 1)
b = fds[0]
count = [0, 0]
def carry():
    while True:
        for fd in select.select([a, b], [], [])[0]:
            packet = os.read(fd, 2000); count[fd == b] += 1
            os.write(b if fd == a else a, packet)
threading.Thread(target=carry, daemon=True).start()
time.sleep(0.5)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.settimeout(3)
udp.sendto(b"hello", ("10.9.0.2", 5000)); print("udp", *udp.recvfrom(100), flush=True)
udp.connect(("10.9.0.2", 5001)); udp.send(b"x"); time.sleep(0.3)
try: print(udp.recvfrom(10))
except OSError as e: print("udp to nobody", e.strerror, flush=True)
s = socket.socket(); s.settimeout(5)
try: s.connect(("10.9.0.2", 81)); print("connected?")
except OSError as e: print("tcp to nobody", e.strerror or e, flush=True)
t = time.time()
s = socket.create_connection(("10.9.0.2", 8000), 5)
print("connected", s.getsockname()[0], s.getpeername(), flush=True)
s.close()
r = subprocess.run(["curl", "-sS", "--max-time", "20", "http://10.9.0.2:8000/f"], capture_output=True)
print("file equal", r.stdout == open("/tmp/w/f", "rb").read(), r.stderr.decode(), "%.2f s" % (time.time() - t) if len(sys.argv) > 1 else "", "packets both ways", min(count) > 100)
os.kill(pid, 9)
