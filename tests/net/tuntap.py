"""As tuntap.c."""

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys

TAP = sys.argv[1] == "tap"
ME, OWN, MINE = b"\2\0\0\0\0\7", bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])
theirs = bytes(6)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def set_iff(fd):
    return fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"t%d", 0x1000 | (2 if TAP else 1)))


def send_ip(protocol, payload):
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, MINE, OWN)
    frame = (theirs + ME + b"\x08\0" if TAP else b"") + ip[:10] + checksum(ip) + ip[12:] + payload
    print("write", "whole" if os.write(fd, frame) == len(frame) else "in part")


def receive(protocol):
    while select.select([fd], [], [], 3)[0]:
        frame = os.read(fd, 2048)
        network = frame[14:] if TAP else frame
        if len(frame) < 28:
            continue
        if TAP and frame[12:14] == b"\x08\x06" and protocol == 0 and network[7] == 2:
            return frame
        if (not TAP or frame[12:14] == b"\x08\0") and network[0] == 0x45 and network[9] == protocol:
            return network
    sys.exit("nothing")


def syn(port):
    segment = struct.pack("!HHIIBBHHH", 4000, port, 100, 0, 0x50, 2, 1000, 0, 0)
    pseudo = MINE + OWN + bytes([0, 6, 0, 20])
    send_ip(6, segment[:16] + checksum(pseudo + segment) + segment[18:])
    source, acknowledged, flags = struct.unpack("!H8xH1xB", receive(6)[20:34])
    print(f"port {port}: from {source} flags 0x{flags:02x} acknowledges {acknowledged}")


fd = os.open("/dev/net/tun", os.O_RDWR)
print("TUNSETIFF 0", set_iff(fd)[:2].decode())
second = os.open("/dev/net/tun", os.O_RDWR)
try:
    fcntl.ioctl(second, 0x400454CA, struct.pack("16sH22x", b"t0", 0x1000 | (2 if TAP else 1)))
    print("busy no")
except OSError as error:
    print("busy", error.strerror)
os.close(second)
subprocess.run("ip link set lo up; ip addr add 10.9.0.1/24 dev t0; ip link set t0 up", shell=True, check=True)
listener = socket.create_server(("", 7000))
if TAP:
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, ME, MINE, bytes(6), OWN)
    print("write", os.write(fd, b"\xff" * 6 + ME + b"\x08\x06" + arp))
    frame = receive(0)
    theirs = frame[6:12]
    print("ARP", socket.inet_ntoa(frame[28:32]), "is at its sender:", "yes" if frame[22:28] == theirs else "no")
echo = struct.pack("!BBHHH", 8, 0, 0, 9, 1) + b"ping"
send_ip(1, echo[:2] + checksum(echo) + echo[4:])
ip = receive(1)
print(f"ICMP type {ip[20]} id {ip[25]} {ip[28:32].decode()} ttl {ip[8]}")
syn(7000)
syn(7001)
