# Two peers of tinc, each in a namespace of its own on one cable: ping and iperf3 through the tunnel.
set -e
cd "$(mktemp -d)"
for n in a b; do ip netns add $n; ip -n $n link set lo up; done
ip link add va netns a type veth peer name vb netns b
ip -n a addr add 192.0.2.1/24 dev va
ip -n b addr add 192.0.2.2/24 dev vb
ip -n a link set va up
ip -n b link set vb up
for n in a b; do
	mkdir -p $n/hosts
	printf 'Name = %s\nDeviceType = tun\nInterface = tinc0\nAddressFamily = ipv4\n' $n >$n/tinc.conf
	printf '#!/bin/sh\nip link set tinc0 up\nip addr add 10.7.0.%s/24 dev tinc0\n' $([ $n = a ] && echo 1 || echo 2) >$n/tinc-up
	chmod +x $n/tinc-up
done
echo 'ConnectTo = b' >>a/tinc.conf
printf 'Address = 192.0.2.1\nSubnet = 10.7.0.1/32\n' >a/hosts/a
printf 'Address = 192.0.2.2\nSubnet = 10.7.0.2/32\n' >b/hosts/b
for n in a b; do tincd -c $n -K1024 </dev/null >/dev/null 2>&1; done
cp a/hosts/a b/hosts/
cp b/hosts/b a/hosts/
for n in b a; do ip netns exec $n tincd -c $n -D --pidfile=$PWD/$n.pid >$n.log 2>&1 & done
for i in $(seq 60); do ip netns exec a ping -q -c 1 -W 1 10.7.0.2 >/dev/null && break; sleep 0.2; done
ip netns exec a ping -c 3 -i 0.2 -W 2 10.7.0.2 | grep -E 'loss'
ip netns exec b iperf3 -s -1 -B 10.7.0.2 >/dev/null 2>&1 &
sleep 0.5
ip netns exec a timeout 20 iperf3 -c 10.7.0.2 -t 1 | grep -E 'receiver'
for n in a b; do kill "$(cat $n.pid)"; done
