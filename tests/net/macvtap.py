"""A program as a station on the link of a cable, through /dev/tapN, with a peer in another namespace; then what tap_ioctl answers."""
import ctypes, errno, fcntl, os, re, select, socket, struct, subprocess

def sh(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20)

def told(command):
    r = sh(command)
    return (r.stdout + r.stderr).strip()

def index(name):
    return int(told(f"ip -o link show {name}").split(":")[0])

# The peer: 10.9.0.1, with a listener on port 7000.
ready, hold = os.pipe(), os.pipe()
peer = os.fork()
if peer == 0:
    CLONE_NEWNET = 0x40000000
    os.close(hold[1])
    assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
    os.write(ready[1], b"x")
    os.read(hold[0], 1)
    for command in ("ip link set lo up", "ip addr add 10.9.0.1/24 dev v1", "ip link set v1 up"):
        sh(command)
    listener = socket.create_server(("10.9.0.1", 7000))
    os.write(ready[1], b"x")
    os.read(hold[0], 1)
    # What it sends by itself: to the station, once it knows where that is.
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"unasked", ("10.9.0.2", 9))
    os.read(hold[0], 1)
    os._exit(0)
os.read(ready[0], 1)
print(told("ip link add v0 type veth peer name v1"), told("ip link add link v0 type macvtap; ip -br link show macvtap0").split()[0])
print(told("ip link add link v0 name m0 address 02:00:00:00:00:07 type macvtap mode bridge"), end="")
node = f"/dev/tap{index('m0')}"
print("before it is up:", told("ip link set m0 up; ip -br link show m0"))
sh(f"ip link set v1 netns {peer}; ip link set v0 up")
os.write(hold[1], b"x")
os.read(ready[0], 1)
print(told("ip -br link show m0"))
print(re.sub("addrgenmode.*", "", told("ip -d link show m0").split("\n")[2]).strip())
s = os.stat(node)
print("node", oct(s.st_mode), s.st_uid, s.st_gid, s.st_rdev != 0)
os.seteuid(65534)
try:
    os.open(node, os.O_RDWR)
except OSError as e:
    print("another user:", errno.errorcode[e.errno])
os.seteuid(0)
os.mkdir("/tmp/sys")
sh("mount -t sysfs sysfs /tmp/sys")
shown = f"/tmp/sys/class/net/m0/tap{index('m0')}"
print("sysfs", sorted(set(os.listdir(shown)) - {"power"}), open(f"{shown}/dev").read() == f"{os.major(s.st_rdev)}:{os.minor(s.st_rdev)}\n",
      os.path.samefile(f"/tmp/sys/class/macvtap/tap{index('m0')}", shown))
sh("umount /tmp/sys")
fd = os.open(node, os.O_RDWR)

def io(fd, command, argument):
    try:
        r = fcntl.ioctl(fd, command, argument)
    except OSError as e:
        return errno.errorcode[e.errno]
    if isinstance(r, int):
        return r
    return struct.unpack("i", r)[0] if len(r) == 4 else (r[:16].rstrip(b"\0"), r[16:24].hex())

def iff(flags):
    return struct.pack("16sH22x", b"any", flags)

zero, empty = bytes(4), bytes(40)
IFF_TAP_NO_PI, VNET_HDR = 0x1002, 0x4000
FEATURES, SETIFF, GETIFF, SETQUEUE, SETOFFLOAD = 0x800454CF, 0x400454CA, 0x800454D2, 0x400454D9, 0x400454D0
GETHDR, SETHDR, GETLE, SETLE, SETSNDBUF = 0x800454D7, 0x400454D8, 0x800454DD, 0x400454DC, 0x400454D4

# Frames, first with the header of 10 bytes that there is.
me = b"\2\0\0\0\0\7"
here, there = b"\x0a\x09\0\x02", b"\x0a\x09\0\x01"
vnet = 10

def csum(b):
    b += b"\0" * (len(b) % 2)
    s = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    return ~s & 0xFFFF

def ip(proto, payload):
    h = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, proto, 0, here, there)
    return h[:10] + struct.pack("!H", csum(h)) + h[12:] + payload

def write(frame, header=None):
    try:
        return os.write(fd, (bytes(vnet) if header is None else header) + frame)
    except OSError as e:
        return errno.errorcode[e.errno]

def read(want):
    while select.select([fd], [], [], 3)[0]:
        b = os.read(fd, 3000)
        head, b = b[:vnet], b[vnet:]
        if want(b):
            return b
    return None

def is_ip(proto):
    return lambda b: b[12:14] == b"\x08\0" and b[23] == proto and b[26:34] == there + here

arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, me, here, bytes(6), there)
print("write", write(b"\xff" * 6 + me + b"\x08\x06" + arp))
b = read(lambda b: b[12:14] == b"\x08\x06" and b[20:22] == b"\0\2")
mac = b[6:12]
print("ARP", b[:6] == me, b[22:28] == mac, b[28:32] == there, b[38:42] == here)
link = mac + me + b"\x08\0"
m = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"payload"
m = m[:2] + struct.pack("!H", csum(m)) + m[4:]
print("write", write(link + ip(1, m)))
b = read(is_ip(1))
print("echo", b[34], b[38:42].hex(), b[42:49])
# No header, then one of 12 bytes with a checksum to be completed.
print("TUNSETIFF", io(fd, SETIFF, iff(IFF_TAP_NO_PI)), io(fd, GETIFF, empty))
vnet = 0
print("write", write(link + ip(1, m)))
print("echo", read(is_ip(1))[42:49])
print("TUNSETIFF", io(fd, SETIFF, iff(IFF_TAP_NO_PI | VNET_HDR)), io(fd, SETHDR, struct.pack("i", 12)), io(fd, GETHDR, zero))
vnet = 12
for port, flags in ((7000, 0x12), (7001, 0x14)):
    tcp = struct.pack("!HHIIBBHHH", 5000, port, 100, 0, 0x50, 2, 1000, 0, 0)
    pseudo = ~csum(here + there + struct.pack("!HH", 6, len(tcp))) & 0xFFFF
    tcp = tcp[:16] + struct.pack("!H", pseudo) + tcp[18:]
    header = struct.pack("<BBHHHHH", 1, 0, 54, 0, 34, 16, 0)
    print("write", write(link + ip(6, tcp), header))
    b = read(is_ip(6))
    print("TCP", port, hex(b[47]), struct.unpack("!I", b[42:46])[0])
os.write(hold[1], b"x")
b = read(is_ip(17))
print("peer sends", b[36:38].hex(), b[42:49])

# A macvlan on the same device in the same mode is reached directly.
sh("ip link add link v0 name m1 type macvlan mode bridge; ip addr add 10.9.0.3/24 dev m1; ip link set m1 up")
there = b"\x0a\x09\0\x03"
arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, me, here, bytes(6), there)
write(b"\xff" * 6 + me + b"\x08\x06" + arp)
b = read(lambda b: b[12:14] == b"\x08\x06" and b[20:22] == b"\0\2" and b[28:32] == there)
link = b[6:12] + me + b"\x08\0"
write(link + ip(1, m))
print("sibling", read(is_ip(1))[42:49])

print("features", hex(io(fd, FEATURES, zero)))
for flags in (0x5102, 0x1001, 0x0002, 0x1802):
    print("TUNSETIFF", hex(flags), io(fd, SETIFF, iff(flags)), io(fd, GETIFF, empty))
for size in (9, 10, -1):
    print("TUNSETVNETHDRSZ", size, io(fd, SETHDR, struct.pack("i", size)), io(fd, GETHDR, zero))
print("TUNSETVNETLE", io(fd, GETLE, zero), io(fd, SETLE, struct.pack("i", 1)), io(fd, GETLE, zero))
print("TUNSETSNDBUF", [io(fd, SETSNDBUF, struct.pack("i", size)) for size in (0, -1, 5)])
print("TUNSETOFFLOAD", [io(fd, SETOFFLOAD, offload) for offload in (0, 1, 2, 7, 0x1F, 0x61, 0x80)])
print("not tap's", [io(fd, command, argument) for command, argument in ((0x800454D3, zero), (0x400454CB, 1), (0x400454CC, 0), (0x400454E2, zero))])
second = os.open(node, os.O_RDWR)
print("second", io(second, GETIFF, empty))
print("TUNSETQUEUE", [io(second, SETQUEUE, iff(flags)) for flags in (0x200, 0x400, 0x400, 0x200, 0)])
os.close(second)
print("address", io(fd, 0x8927, empty), io(fd, 0x8924, struct.pack("16sH6s16x", b"", 1, b"\2\0\0\0\0\5")), io(fd, 0x8927, empty),
      io(fd, 0x8924, struct.pack("16sH6s16x", b"", 1, b"\3\0\0\0\0\5")))
for command in ("ip link set m0 mtu 9000", "ip link set v0 mtu 1400; ip -o link show m0 | grep -o 'mtu [0-9]*'", "ip link set m0 type macvtap mode passthru",
                "ip link add link v0 type macvtap mode passthru", "ip link add link lo type macvlan", "ip link add br0 type bridge; ip link set v0 master br0",
                "ip link set m0 master br0", "ip link set m0 type macvtap mode vepa; ip -d link show m0 | grep -o 'mode vepa'"):
    print(command, "|", told(command))
os.close(fd)
print("closed:", told("ip -br link show m0").split()[0], os.path.exists(node))
fd = os.open(node, os.O_RDWR)
sh("ip link del m0")
print("gone:", os.path.exists(node), write(b"x" * 60), io(fd, GETIFF, empty), io(fd, SETOFFLOAD, 0), io(fd, 0x8927, empty), io(fd, SETQUEUE, iff(0x200)),
      hex(io(fd, FEATURES, zero)))
sh("ip link add link v0 name m0 type macvtap")
again = f"/dev/tap{index('m0')}"
print("again:", os.path.exists(again))
os.mknod("/tmp/node", 0o600 | 0o020000, os.stat(again).st_rdev)
os.close(os.open("/tmp/node", os.O_RDWR))
sh("ip link del v0")
try:
    os.open("/tmp/node", os.O_RDWR)
except OSError as e:
    print("with its lower device:", os.path.exists(again), errno.errorcode[e.errno], told("ip -br link show m1"))
os.unlink("/tmp/node")
os.write(hold[1], b"x")
os.waitpid(peer, 0)
