#!/bin/bash
# tcpdump and arping: what is seen on a cable, on all devices, and of two sockets of one namespace. As root it runs natively, too:
# unshare -mn bash capture.sh
set -u
cd "$(mktemp -d)" || exit 1
ip link set lo up
ip netns add peer
ip link add va address 02:00:00:00:00:0a type veth peer name vb address 02:00:00:00:00:0b netns peer
ip addr add 10.0.0.1/24 dev va
ip -n peer addr add 10.0.0.2/24 dev vb
ip link set va up
ip -n peer link set vb up

dump() { # dump FILE ARGUMENTS...: captures to a file, until told to end
	local file=$1
	shift
	timeout 20 tcpdump -Z root -nn --immediate-mode "$@" >"$file" 2>"$file.err" &
	until grep -q listening "$file.err"; do sleep 0.05; done
}

dump link -e -t -i va -c 4 'icmp or arp'
link=$!
dump any -t -i any -c 2 'icmp[icmptype] = icmp-echo or icmp[icmptype] = icmp-echoreply'
any=$!
dump written -U -i va -w ring.pcap
written=$!
ping -q -c 1 10.0.0.2 | grep received
wait $link $any
sed 's/id [0-9]*/id N/' link any
tail -n 3 link.err

# A connection and a datagram between sockets of this namespace and of another.
python3 -c '
import socket
s = socket.create_server(("10.0.0.1", 8000))
open("listening", "w")
c, _ = s.accept()
c.sendall(c.recv(100).upper())' &
dump tcp -t -i va tcp port 8000
tcp=$!
dump lo -t -i lo udp
lo=$!
until [ -e listening ]; do sleep 0.05; done
ip netns exec peer bash -c 'exec 3<>/dev/tcp/10.0.0.1/8000; echo hello >&3; cat <&3'
python3 -c 'import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b"datagram\n", ("127.0.0.1", 9))'
sleep 0.2
kill $tcp $lo $written
wait
grep -o 'Flags.*' tcp | head -n 3 | sed 's/seq [0-9]*\(, ack [0-9]*\)*, win.*/seq N/; s/ack 1, win.*/ack 1/'
grep -c 'length [1-9]' tcp
sed 's/127.0.0.1.[0-9]* >/127.0.0.1 >/' lo
tcpdump -nn -t -r ring.pcap 'icmp' 2>/dev/null | sed 's/id [0-9]*/id N/'
arping -q -c 2 -i va 10.0.0.2 && echo arping
