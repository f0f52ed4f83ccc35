set -e
for n in a b c; do ip netns add $n; done
ip link add br0 type bridge; ip link set br0 up; ip addr add 10.0.0.100/24 dev br0
i=1
for n in a b c; do
 ip link add v$n type veth peer name eth0 netns $n
 ip link set v$n master br0 up
 ip netns exec $n ip addr add 10.0.0.$i/24 dev eth0
 ip netns exec $n ip -6 addr add fd00::$i/64 dev eth0 nodad
 ip netns exec $n ip link set eth0 up
 ip netns exec $n ip link set lo up
 i=$((i+1))
done
for t in 10.0.0.2 10.0.0.3 10.0.0.100; do ip netns exec a ping -c 2 -i 0.2 -W 2 $t | sed 's/time=.*//; s/time .*//; /^rtt/d'; done
ip netns exec a ping -c 1 -W 2 10.0.0.9 | sed 's/time=.*//; s/time .*//; /^rtt/d' || true
ip netns exec a ping -6 -c 2 -i 0.2 -W 2 fd00::3 | sed 's/time=.*//; s/time .*//; /^rtt/d'
ip netns exec a ping -c 1 -s 4000 -W 2 10.0.0.3 | sed 's/time=.*//; s/time .*//; /^rtt/d'
ip netns exec a ip neigh | sed 's/lladdr [0-9a-f:]*/lladdr X/' | sed 's/ \(REACHABLE\|DELAY\|STALE\)//' | sort
