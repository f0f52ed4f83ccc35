# Three namespaces in a row, the middle one a router that also gives out addresses; a tunnel of two socats between the outer ones.
cd /tmp
for n in a b c; do ip netns add $n; ip netns exec $n ip link set lo up; done
ip link add va netns a type veth peer name vb netns b
ip link add vb2 netns b type veth peer name vc netns c
ip netns exec a ip addr add 10.1.0.1/24 dev va; ip netns exec a ip link set va up
ip netns exec b ip addr add 10.1.0.2/24 dev vb; ip netns exec b ip link set vb up
ip netns exec b ip addr add 10.2.0.2/24 dev vb2; ip netns exec b ip link set vb2 up
ip netns exec c ip addr add 10.2.0.3/24 dev vc; ip netns exec c ip link set vc up
ip netns exec a ip route add default via 10.1.0.2; ip netns exec c ip route add default via 10.2.0.2
ip netns exec a ping -c 1 -W 1 10.2.0.3 | grep -o '[0-9]* received'
ip netns exec b sysctl -qw net.ipv4.ip_forward=1
ip netns exec a ping -c 1 -W 2 10.2.0.3 | grep -o '[0-9]* received\|ttl=[0-9]*'
ip netns exec a ip route get 10.2.0.3 | head -1
ip netns exec c iperf3 -s -1 >/dev/null 2>&1 & sleep 1
ip netns exec a timeout 10 iperf3 -c 10.2.0.3 -t 1 | grep -c receiver
ip netns exec a socat TUN:10.7.0.1/24,up UDP:10.2.0.3:7000,bind=10.1.0.1:7000 &
ip netns exec c socat TUN:10.7.0.2/24,up UDP:10.1.0.1:7000,bind=10.2.0.3:7000 &
sleep 1.5
ip netns exec a ping -c 2 -i 0.3 -W 2 10.7.0.2 | grep -o '[0-9]* received'
ip netns exec b dnsmasq --no-daemon --conf-file=/dev/null --port=0 --interface=vb --bind-interfaces \
	--dhcp-range=10.1.0.50,10.1.0.60 --leasefile-ro --user=root >/dev/null 2>&1 & sleep 1
ip netns exec a timeout 15 busybox udhcpc -i va -n -q -t 5 -T 1 -s /bin/true 2>&1 | grep -o 'lease of 10.1.0.[56][0-9] obtained from 10.1.0.2'
