# Two OpenVPN peers with a static key, each in a namespace of its own on one cable; the first argument is tun or tap.
set -e
cd /tmp
openvpn --genkey secret k 2>/dev/null
for n in a b; do ip netns add $n; ip netns exec $n ip link set lo up; done
ip link add va netns a type veth peer name vb netns b
ip netns exec a ip addr add 192.0.2.1/24 dev va; ip netns exec a ip link set va up
ip netns exec b ip addr add 192.0.2.2/24 dev vb; ip netns exec b ip link set vb up
M=$1
if [ $M = tun ]; then A="--dev tun --ifconfig 10.8.0.1 10.8.0.2"; B="--dev tun --ifconfig 10.8.0.2 10.8.0.1"; else A="--dev tap --ifconfig 10.8.0.1 255.255.255.0"; B="--dev tap --ifconfig 10.8.0.2 255.255.255.0"; fi
ip netns exec a openvpn $A --secret k --remote 192.0.2.2 --cipher AES-256-CBC > la 2>&1 &
ip netns exec b openvpn $B --secret k --remote 192.0.2.1 --cipher AES-256-CBC > lb 2>&1 &
for i in $(seq 30); do grep -q "Initialization Sequence Completed" la && grep -q "Initialization Sequence Completed" lb && break; sleep 0.5; done
tail -2 la
ip netns exec a ping -c 3 -i 0.3 -W 2 10.8.0.2 | grep -E "bytes from|loss"
ip netns exec b iperf3 -s -1 -B 10.8.0.2 >/dev/null 2>&1 & sleep 1
ip netns exec a timeout 20 iperf3 -c 10.8.0.2 -t 2 | grep -E "sender|receiver"
kill %1 %2
