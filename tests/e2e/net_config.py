"""Configuration of network namespaces by iproute2 and older tools."""

import os
import subprocess

from harness import HERE, case, check, equal

SCRIPT = HERE / "net" / "config.sh"
KEPT = HERE / "net" / "config.expected"
TOOLS = ["--bind", f"{HERE}/net:/net:ro"]


@case(timeout=120)
def iproute2_is_answered_as_on_the_host(t):
    """Links, addresses, routes, rules, neighbours: what root was told in a namespace of the host (config.expected), in the
    same order. As root, the host is asked again."""
    if os.geteuid() == 0:
        told = subprocess.run(["unshare", "-n", "bash", SCRIPT], capture_output=True, text=True, timeout=100).stdout
        equal(told, KEPT.read_text(), "the host says something else now")
    r = t.run(["unshare", "-n", "bash", "/net/config.sh"], TOOLS).ok()
    equal(r.out, KEPT.read_text(), r.describe())


@case()
def named_namespaces_hold_devices_that_move(t):
    """ip netns: made, listed, entered, connected by a cable, removed; what is in one ends with it."""
    r = t.sh(r"""
mkdir -p /run/netns; ip netns add a && ip netns add b; ip netns list | sort
ip link add to_b netns a type veth peer name to_a netns b
ip -n a -br link | cut -c1-12; ip -n b link show to_a | grep -c link-netns
ip link add x type veth peer name y; ip link set y netns a; ip link set x netns $$ && echo stays
ip link set lo netns a 2>&1; ip -n a link show y | grep -o 'y@if[0-9]*' | grep -c .
ip netns identify $$; ip netns exec a ip netns identify; ip netns exec a ls /sys/class/net | sort | tr '\n' ' '; echo
ip netns del a; sleep 0.2; ip -n b -br link | grep -c to_a; ip link show x 2>&1
ip netns list; ip -all netns exec ip -br link | grep -c lo
""").ok()
    r.has("a", "b", "stays", "immutable", "lo to_b y", 'Device "x" does not exist')
    check("\n0\n" in r.out, r.describe())


@case()
def monitor_tells_of_changes(t):
    """ip monitor hears of links, addresses and routes as they come and go."""
    r = t.sh(r"""
unshare -n sh -c '
ip -o monitor link address route > /tmp/heard & sleep 0.5
ip link add d0 type dummy; ip link set d0 up; ip addr add 10.1.0.1/24 dev d0; ip route add 10.2.0.0/16 via 10.1.0.2; ip link del d0
sleep 0.5; kill $!; cat /tmp/heard'
""").ok()
    r.has("d0: <BROADCAST,NOARP> mtu", "d0: <BROADCAST,NOARP,UP,LOWER_UP>", "inet 10.1.0.1/24", "10.2.0.0/16 via 10.1.0.2", "Deleted")


@case()
def older_tools_use_ioctls(t):
    """ifconfig, route and busybox set up a device and show it."""
    r = t.sh(r"""
unshare -n sh -c '
ip link add e type veth peer name f; ip link set f up
ifconfig e 10.3.0.1 netmask 255.255.0.0 up; ifconfig e mtu 1300; ifconfig e | head -2
ifconfig e:1 10.3.5.1; ip -o -4 addr show e | cut -c1-60; ifconfig e:1 down
route add -net 10.4.0.0/16 gw 10.3.0.9; route add default gw 10.3.0.8; route -n | tail -3
busybox route -n | tail -3; busybox ifconfig e | head -2; ifconfig -a | grep -c mtu; cat /proc/net/route | wc -l
ifconfig nosuch 2>&1'
""")
    r.has("mtu 1300", "inet 10.3.0.1  netmask 255.255.0.0  broadcast 10.3.255.255", "inet 10.3.5.1/8", "10.4.0.0", "UG", "inet addr:10.3.0.1", "Device not found")


@case()
def settings_belong_to_a_namespace(t):
    """/proc/sys/net and /sys/class/net follow the devices; a user without the right changes nothing."""
    r = t.sh(r"""
unshare -n sh -c '
ip link add d0 type dummy; sysctl -q -w net.ipv4.ip_forward=1; cat /proc/sys/net/ipv4/conf/d0/forwarding
ls /proc/sys/net/ipv4/conf | tr "\n" " "; echo; sysctl -w net.ipv4.ip_default_ttl=900 2>&1; sysctl -n net.ipv6.conf.d0.disable_ipv6
sysctl -q -w net.ipv6.conf.all.disable_ipv6=1; ip link set d0 up; ip -6 addr | wc -l; ip netconf show dev d0 | head -1'
cat /proc/sys/net/ipv4/ip_forward; setpriv --reuid 1000 --clear-groups sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward' 2>&1; cat /sys/class/net/lo/mtu
""")
    r.has("1\nall d0 default lo", "Invalid argument", "inet d0 forwarding on", "ermission denied", "65536")


@case()
def what_is_not_there_fails_cleanly(t):
    """Netfilter and unknown kinds of links are refused; generic netlink knows no family."""
    r = t.sh("iptables -L 2>&1; nft list tables 2>&1; unshare -n ip link add x type wireguard 2>&1; ip tcp_metrics 2>&1; ip -br link")
    r.has("lo ").lacks("panicked")
