#!/bin/bash
# What ss tells of sockets of all kinds (sock_diag). As root it runs natively, too: unshare -n bash sockets.sh
ready=$(mktemp -u)
ip link set lo up
python3 - "$ready" <<'END' &
import socket
import sys
import time

a = socket.create_server(("127.0.0.1", 8000))
b = socket.create_server(("::", 8001), family=socket.AF_INET6, dualstack_ipv6=True)
c = socket.create_server(("::1", 8002), family=socket.AF_INET6)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("0.0.0.0", 5353))
u6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
u6.bind(("::1", 5353))
client = socket.create_connection(("127.0.0.1", 8000))
server, _ = a.accept()
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connected.connect(("127.0.0.1", 5353))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
packet.bind(("lo", 0x0800))
route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
route.bind((4321, 5))
open(sys.argv[1], "w")
time.sleep(20)
END
until [ -e "$ready" ]; do sleep 0.05; done
run() {
	echo "== ss $*"
	ss "$@" 2>&1 | sed 's/pid=[0-9]*,fd=[0-9]*/pid,fd/g; s/:[3-6][0-9]\{4\}\b/:PORT /g; s/uid:[0-9]* *//; s/ino:[0-9]*/ino/; s/sk:[0-9a-f]*/sk/; s/cgroup:[^ ]* *//; s/  */ /g; s/ *$//' | sort
}
run -tlnp
run -tan
run -uanp
run -wan
run -0 -np
run -tlne
run -tan 'sport = :8000'
run -tan 'dport = :8000 or src [::1]'
run -tan 'not ( sport >= :8001 and sport <= :8002 )'
run -tan 'dev lo'
run -tan state established
run -tan state syn-sent
run -tan 'src 127.0.0.0/8'
run -tlnm
run -f netlink | grep rtnl:4321
kill %1
wait 2>/dev/null
