# Two peers of wireguard-go, each in a namespace of its own on one cable: ping and iperf3 through the tunnel.
set -e
cd "$(mktemp -d)"
for n in a b; do
	ip netns add $n
	ip -n $n link set lo up
	(umask 077; wg genkey >$n.key)
	wg pubkey <$n.key >$n.pub
done
ip link add va netns a type veth peer name vb netns b
ip -n a addr add 192.0.2.1/24 dev va
ip -n b addr add 192.0.2.2/24 dev vb
ip -n a link set va up
ip -n b link set vb up
for n in a b; do
	ip netns exec $n wireguard-go -f wg$n >$n.log 2>&1 &
	until [ -S /run/wireguard/wg$n.sock ]; do sleep 0.1; done
done
ip netns exec a wg set wga private-key a.key listen-port 51820 peer "$(cat b.pub)" allowed-ips 10.6.0.2/32 endpoint 192.0.2.2:51820
ip netns exec b wg set wgb private-key b.key listen-port 51820 peer "$(cat a.pub)" allowed-ips 10.6.0.1/32 endpoint 192.0.2.1:51820
ip -n a addr add 10.6.0.1/24 dev wga
ip -n b addr add 10.6.0.2/24 dev wgb
ip -n a link set wga up
ip -n b link set wgb up
ip netns exec a ping -c 3 -i 0.2 -W 5 10.6.0.2 | grep loss
ip netns exec b iperf3 -s -1 -B 10.6.0.2 >/dev/null 2>&1 &
sleep 0.5
ip netns exec a timeout 20 iperf3 -c 10.6.0.2 -t 1 | grep receiver
ip netns exec a wg show wga | grep -c 'latest handshake'
kill %1 %2
