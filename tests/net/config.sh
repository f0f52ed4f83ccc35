#!/bin/bash
# Configures devices, addresses, routes, rules and neighbours in a network namespace of its own, and shows them.
# What is random (link-layer addresses, times) is replaced, so that the output is the same on every Linux.
set -u
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin

normal() {
    sed -E -e 's/[ \t]+$//' \
        -e 's/(brd|link\/[a-z]+) ff:ff:ff:ff:ff:ff/\1 BROADCAST/g' -e 's/00:00:00:00:00:00/NOADDR/g' \
        -e 's/02:00:00:00:00:([0-9a-f]{2})/MAC\1/g' \
        -e 's/([0-9a-f]{2}:){5}[0-9a-f]{2}/RANDOM/g' \
        -e 's/fe80::[0-9a-f:]*ff:fe[0-9a-f:]*/LINKLOCAL/g' \
        -e 's/(numtxqueues|numrxqueues|gso_max_size|gso_max_segs|tso_max_size|tso_max_segs|gro_max_size|gso_ipv4_max_size|gro_ipv4_max_size) [0-9]+ ?//g' \
        -e 's/gc_timer +[0-9.]+/gc_timer T/; s/refcnt [0-9]+ reachable [0-9]+/refcnt N reachable N/; s/rt_offload_failed //' \
        -e '/ self permanent$/d; /^MAC0. dev e1 master br0$/d' \
        -e 's/qdisc [a-z_]+ //' -e 's/[ \t]+$//'
}
run() {
    echo "\$ $*"
    "$@" 2>&1 | normal
    local code=${PIPESTATUS[0]}
    [ "$code" = 0 ] || echo "exit code $code"
}
sorted() {
    "$@" | sort
    return "${PIPESTATUS[0]}"
}
settled() { # waits until addresses are no longer asked for
    local n
    for n in $(seq 60); do
        ip -6 addr show tentative 2>/dev/null | grep -q inet6 || return
        sleep 0.1
    done
}

echo "== links"
run ip link
run ip link set lo up
run ip link add e0 type veth peer name e1
run ip link set e0 address 02:00:00:00:00:0a
run ip link set e1 address 02:00:00:00:00:0b
run ip link show e0
run ip link add e0 type veth
run ip link add type veth
run ip -br link show veth0
run ip link add name x/y type bridge
run ip link add nosuch type nosuchkind
run ip link del lo
run ip link set nosuch up
run ip link set e0 mtu 100
run ip link set e0 mtu 67
run ip link set e0 mtu 70000
run ip link set e0 mtu 1400
run ip link set e0 alias "the first"
run ip link set e0 txqueuelen 50
run ip link set e0 group 7
run ip link show group 7
run ip link set e0 name c0
run ip link set c0 name lo
run ip link set c0 name e0
run ip -d link show e0
run ip link del veth0
run ip -br link
run ip link set e0 up
sleep 0.2
run ip link show e0
run ip link set e1 up
sleep 0.2
run ip link show e0
run ip link set e1 down
sleep 0.2
run ip link show e0
run ip link set e1 up
run ip link add br0 type bridge
run ip link set br0 address 02:00:00:00:00:bb
run ip link set br0 up
sleep 0.2
run ip link show br0
run ip link set e1 master br0
sleep 0.2
run ip link show br0
run ip link show master br0
run bridge link
run ip link set lo master br0
run ip link set br0 master br0
run ip link set e0 master e0
run ip link set e1 nomaster
run ip link show e1
run ip link set e1 master br0
run ip -d link show type bridge
run ip link set br0 type bridge ageing_time 20000
run ip -d link show br0
run sorted bridge fdb show br br0
run ip link set e0 promisc on
run ip link show e0
run ip link set e0 promisc off
run ip link set e0 arp off
run ip link show e0
run ip link set e0 arp on multicast off
run ip link show e0
run ip link set e0 multicast on

echo "== addresses"
settled
run ip addr show lo
run ip addr add 10.0.0.1/24 dev e0
run ip addr add 10.0.0.1/24 dev e0
run ip addr add 10.0.0.2/24 brd + dev e0
run ip addr add 10.0.0.3/24 dev e0 label e0:x
run ip addr add 10.0.1.1/24 dev e0 scope link
run ip addr add 10.0.2.1 peer 10.0.2.2 dev e0
run ip addr add 10.0.0.9/33 dev e0
run ip addr add 2001:db8::1/64 dev e0
run ip addr add 2001:db8::1/64 dev e0
run ip addr add 2001:db8::2/64 dev e0 nodad
run ip addr add ff02::5/64 dev e0
settled
run ip addr show e0
run ip -4 route show table all
run ip -6 route show table all
run ip addr del 10.0.0.1/24 dev e0
run ip addr show e0
run ip -4 route show table all
run ip addr del 10.0.0.1/24 dev e0
run ip addr del 2001:db8::7/64 dev e0
run ip addr add 10.0.0.1/24 dev e0
run ip addr add 10.0.0.2/24 dev e0
run sysctl -w net.ipv4.conf.e0.promote_secondaries=1
run ip addr del 10.0.0.1/24 dev e0
run ip addr show e0
run ip addr flush dev e0 scope link
run ip addr add 10.0.5.1/24 dev e0 valid_lft 1000 preferred_lft 500
ip addr show e0 | grep -c 'valid_lft 1000sec\|valid_lft 999sec'
run ip addr add 10.0.6.1/24 dev e0 noprefixroute
run ip addr change 10.0.5.1/24 dev e0 valid_lft forever preferred_lft forever
run ip -4 addr show e0
run ip -4 route
run ip maddr show dev e0

echo "== routes"
run ip route add 192.168.1.0/24 via 10.0.0.2
run ip route add 192.168.1.0/24 via 10.0.0.7
run ip route add 192.168.2.0/24 dev e0
run ip route add 192.168.3.0/24 via 10.99.0.1
run ip route add 192.168.4.0/24 via 10.0.0.7 dev e1
run ip route add 192.168.5.1/24 dev e0
run ip route add 192.168.5.0/24 dev nosuch
run ip route add default via 10.0.0.7 metric 100
run ip route add default via 10.0.0.8 metric 50
run ip route add blackhole 172.16.0.0/12
run ip route add unreachable 172.32.0.0/16 metric 5
run ip route add prohibit 172.33.0.0/16
run ip route add throw 172.34.0.0/16
run ip route add 10.9.0.0/16 src 10.0.0.2 dev e0
run ip route add 10.10.0.0/16 src 10.77.0.2 dev e0
run ip route add 10.11.0.0/16 via 1.2.3.4 dev e0 onlink
run ip route add 10.12.0.0/16 nexthop via 10.0.0.7 weight 2 nexthop via 10.0.0.8 weight 1
run ip route add 10.13.0.0/16 dev e0 mtu 1300 advmss 1200
run ip route add 10.14.0.0/16 dev e0 table 100
run ip route replace 192.168.2.0/24 via 10.0.0.7
run ip route change 192.168.77.0/24 via 10.0.0.7
run ip route append 192.168.2.0/24 via 10.0.0.8
run ip route prepend 192.168.2.0/24 via 10.0.0.9
run ip route
run ip route show table 100
run ip route show table 101
run ip route show proto kernel
run ip route show type blackhole
run ip route del 192.168.2.0/24
run ip route del 192.168.99.0/24
run ip route del 172.16.0.0/12
run ip route show 192.168.0.0/16
run ip route show root 192.168.0.0/16
run ip -6 route add 2001:db8:1::/48 via 2001:db8::9
run ip -6 route add 2001:db8:1::/48 via 2001:db8::a
run ip -6 route add 2001:db8:2::/48 via 2001:db8:77::9
run ip -6 route add 2001:db8:3::/48 via fe80::1
run ip -6 route add 2001:db8:3::/48 via fe80::1 dev e0
run ip -6 route add 2001:db8:4::/48 dev e0 metric 7
run ip -6 route add default via 2001:db8::9
run ip -6 route add unreachable 2001:db8:5::/48
run ip -6 route
run ip -6 route del 2001:db8:4::/48
run ip -6 route del 2001:db8:4::/48
run ip route get 10.0.0.2
run ip route get 10.0.0.77
run ip route get 192.168.1.5
run ip route get 8.8.8.8
run ip route get 8.8.8.8 from 10.0.0.2
run ip route get 127.0.0.1
run ip route get 172.32.1.1
run ip route get 172.33.1.1
run ip route get 224.0.0.5
run ip -6 route get 2001:db8::77
run ip -6 route get 2001:db8::2
run ip -6 route get 2001:db8:5::1

echo "== rules"
run ip rule
run ip -6 rule
run ip rule add from 10.0.0.0/24 table 100
run ip rule add from 10.0.0.0/24 table 100
run ip rule add fwmark 5 table 100 priority 77
run ip rule add to 10.66.0.0/16 iif e0 lookup 100 priority 78
run ip rule add not from 10.67.0.0/16 blackhole priority 79
run ip rule add oif nosuch lookup main suppress_prefixlength 0 priority 80
run ip rule add ipproto tcp dport 80-90 table 100 priority 81
run ip rule
run ip route get 10.14.3.3 from 10.0.0.2
run ip rule del priority 77
run ip rule del priority 77
run ip rule del from 10.0.0.0/24
run ip rule

echo "== neighbours"
run ip neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev e0
run ip neigh add 10.0.0.50 lladdr 02:00:00:00:00:51 dev e0
run ip neigh replace 10.0.0.50 lladdr 02:00:00:00:00:51 dev e0
run ip neigh add 10.0.0.51 lladdr 02:00:00:00:00:51 dev e0 nud reachable
run ip neigh add 2001:db8::50 lladdr 02:00:00:00:00:52 dev e0
run ip neigh show dev e0 nud permanent
run ip neigh get 10.0.0.50 dev e0
run ip neigh del 10.0.0.50 dev e0
run ip neigh del 10.0.0.50 dev e0
run ip neigh show dev e0 nud permanent
run bridge fdb add 02:00:00:00:00:60 dev e1 master static
run bridge fdb add 02:00:00:00:00:60 dev e1 master static
run sorted bridge fdb show br br0
run bridge fdb del 02:00:00:00:00:60 dev e1 master
run bridge fdb del 02:00:00:00:00:60 dev e1 master
run ip netconf show dev e0
run ip ntable show dev e0 name arp_cache

echo "== down"
run ip link set e0 down
sleep 1.5
run ip addr show e0
run ip route show table all
run ip -6 route show table all
run ip link set e0 up
settled
run ip addr show e0
run ip -4 route
run ip link del e0
run ip -br link
run ip route show table all
