"""Packets: a bridge of namespaces, TUN and TAP devices that programs serve, TCP and UDP over them."""

import os
import subprocess

from harness import HERE, case, check, equal

NET = ["--bind", f"{HERE / 'net'}:/net:ro"]


@case()
def three_namespaces_on_a_bridge_ping_each_other(t):
    """ARP, neighbour discovery, ICMP of both versions, fragments, and a neighbour that is not there."""
    r = t.run(["bash", "/net/bridge.sh"], opts=NET).ok()
    for address in ("10.0.0.2", "10.0.0.3", "10.0.0.100", "fd00::3"):
        check(r.out.count(f"64 bytes from {address}: icmp_seq=") == 2, r.describe())
    r.has("4008 bytes from 10.0.0.3", "1 packets transmitted, 0 received, 100% packet loss", "10.0.0.9 dev eth0 FAILED")
    r.has("10.0.0.2 dev eth0 lladdr X", "fd00::3 dev eth0 lladdr X")


@case()
def tcpdump_and_arping_see_what_they_see_on_the_host(t):
    """On a cable, on all devices, to a file, and of two sockets of the sandbox. As root, the host is asked again."""
    kept = (HERE / "net" / "capture.expected").read_text()
    if os.geteuid() == 0:
        natively = "mount -t tmpfs tmpfs /run; bash " + str(HERE / "net" / "capture.sh")
        told = subprocess.run(["unshare", "-mn", "bash", "-c", natively], capture_output=True, text=True, timeout=60).stdout
        equal(told, kept, "the host says something else now")
    r = t.run(["bash", "/net/capture.sh"], opts=NET).ok()
    equal(r.out, kept, r.describe())


@case()
def ss_tells_of_sockets_as_on_the_host(t):
    """TCP, UDP, raw, packet and netlink sockets with their owners, and the filters of ss. As root, the host is asked again."""
    kept = (HERE / "net" / "sockets.expected").read_text()
    if os.geteuid() == 0:
        told = subprocess.run(["unshare", "-n", "bash", HERE / "net" / "sockets.sh"], capture_output=True, text=True, timeout=60).stdout
        equal(told, kept, "the host says something else now")
    r = t.run(["bash", "/net/sockets.sh"], opts=NET).ok()
    equal(r.out, kept, r.describe())


@case()
def the_stack_answers_what_a_program_writes_to_a_tun_device(t):
    """An echo request, and a datagram to a port that nobody has."""
    r = t.run(["python3", "/net/tap.py", "tun"], opts=NET).ok()
    equal(
        r.lines(),
        [
            "35 0 0a0900010a090002 b'payload'",
            "56 0303 4500001c00010000401166bc",
            'Device "t0" does not exist.',
        ],
        "what a kernel's stack answers",
    )


@case()
def the_stack_answers_what_a_program_writes_to_a_tap_device(t):
    """A question for a link-layer address, and an echo request."""
    r = t.run(["python3", "/net/tap.py", "tap"], opts=NET).ok()
    equal(
        r.lines(),
        ["42 020000000007 0a090001 0a090002", "49 0 0a0900010a090002", 'Device "t0" does not exist.'],
        "what a kernel's stack answers",
    )


@case()
def a_program_is_a_station_on_a_cable_through_the_node_of_a_macvtap(t):
    """ARP, ICMP echo and SYN with a peer in another namespace, what tap_ioctl answers, and when the node goes. As root, the host is asked again."""
    kept = (HERE / "net" / "macvtap.expected").read_text()
    if os.geteuid() == 0:
        natively = f"mount -t tmpfs tmpfs /tmp; exec python3 {HERE / 'net' / 'macvtap.py'}"
        told = subprocess.run(["unshare", "-mn", "sh", "-c", natively], capture_output=True, text=True, timeout=60).stdout
        equal(told, kept, "the host says something else now")
    r = t.run(["python3", "/net/macvtap.py"], opts=NET).ok()
    equal(r.out, kept, r.describe())


@case()
def programs_in_c_rust_and_python_are_answered_through_tun_and_tap(t):
    """ARP, ICMP echo and SYN, to a port with a listener and to one without. As root, the host answers the same."""
    built = t.dir
    source = HERE / "net" / "tuntap"
    rustc = t.fixtures / "rust/bin/rustc"
    subprocess.run(["gcc", "-Wall", "-o", built / "c", f"{source}.c"], check=True, timeout=60)
    subprocess.run([rustc, "--edition=2024", "-o", built / "rust", f"{source}.rs"], check=True, timeout=100)
    answers = """ICMP type 0 id 9 ping ttl 64
write whole
port 7000: from 7000 flags 0x12 acknowledges 101
write whole
port 7001: from 7001 flags 0x14 acknowledges 101""".split("\n")
    expected = {
        "tun": ["TUNSETIFF 0 t0", "busy Device or resource busy", "write whole", *answers],
        "tap": ["TUNSETIFF 0 t0", "busy Device or resource busy", "write 42", "ARP 10.9.0.1 is at its sender: yes", "write whole", *answers],
    }
    for mode, lines in expected.items():
        for program in (["/built/c"], ["/built/rust"], ["python3", "/net/tuntap.py"]):
            opts = [*NET, "--bind", f"{built}:/built:ro"]
            equal(t.run(["timeout", "20", *program, mode], opts=opts).ok().lines(), lines, f"{program} {mode}")
        if os.geteuid() == 0:
            for program in ([built / "c"], [built / "rust"], ["python3", f"{source}.py"]):
                told = subprocess.run(["unshare", "-n", *program, mode], capture_output=True, text=True, timeout=20).stdout
                equal(told.split("\n")[:-1], lines, f"natively: {program} {mode}")


@case()
def tinc_peers_reach_each_other(t):
    """Two of Debian's tincd in two namespaces: ping and iperf3 through the tunnel."""
    t.run(["bash", "/net/tinc.sh"], opts=NET).ok().has("3 packets transmitted, 3 received", "receiver")


@case()
def wireguard_peers_reach_each_other(t):
    """The same with wireguard-go, configured by wg."""
    t.run(["bash", "/net/wireguard.sh"], opts=NET).ok().has("3 packets transmitted, 3 received", "receiver")


@case()
def tcp_and_udp_pass_through_a_tunnel_of_two_tun_devices(t):
    """The two ends are in different namespaces, and a program carries every packet."""
    r = t.run(["python3", "/net/tunnel.py"], opts=NET).ok()
    equal(
        r.lines(),
        [
            "udp b'HELLO' ('10.9.0.2', 5000)",
            "udp to nobody Connection refused",
            "tcp to nobody Connection refused",
            "connected 10.9.0.1 ('10.9.0.2', 8000)",
            "file equal True   packets both ways True",
        ],
        "the tunnel",
    )


@case()
def a_router_forwards_and_gives_out_addresses(t):
    """Forwarding, iperf3 through the router, `socat TUN`, and a DHCP server and client."""
    r = t.run(["bash", "/net/router.sh"], opts=NET).ok()
    equal(
        [line.rstrip() for line in r.lines()][:6],
        ["0 received", "ttl=63", "1 received", "10.2.0.3 via 10.1.0.2 dev va src 10.1.0.1 uid 0", "1", "2 received"],
        "the router",
    )
    r.has("obtained from 10.1.0.2")


@case()
def openvpn_peers_reach_each_other_by_tun(t):
    vpn(t, "tun")


@case()
def openvpn_peers_reach_each_other_by_tap(t):
    vpn(t, "tap")


def vpn(t, mode):
    """Two peers in two namespaces with a static key: ping and iperf3 through the tunnel."""
    r = t.run(["bash", "/net/vpn.sh", mode], opts=NET).ok()
    r.has("Initialization Sequence Completed", "3 packets transmitted, 3 received", "receiver")


@case(timeout=150)
def a_machine_of_qemu_is_on_a_bridge(t):
    """Debian's kernel in Debian's QEMU has its network card on a TAP device; another namespace pings it and fetches a file."""
    machine = ["--bind", f"{t.fixtures / 'machine'}:/machine:ro"]
    t.run(["bash", "/net/machine.sh"], opts=NET + machine, timeout=140).ok().has(
        "the machine is up", "2 received", "hello from the machine"
    )
