# A machine that QEMU emulates, on a bridge with another namespace, by a TAP device. /machine has its kernel.
cd /tmp
ip link add br0 type bridge; ip addr add 10.5.0.1/24 dev br0; ip link set br0 up
ip netns add c; ip link add v0 type veth peer name eth0 netns c; ip link set v0 master br0 up
ip netns exec c ip addr add 10.5.0.3/24 dev eth0; ip netns exec c ip link set eth0 up
ip tuntap add tap0 mode tap; ip link set tap0 master br0 up
qemu-system-x86_64 -accel tcg -m 256 -display none -serial file:/tmp/console -no-reboot \
	-kernel /machine/vmlinuz -initrd /machine/initrd.gz -append "console=ttyS0 quiet panic=1" \
	-netdev tap,id=n0,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=n0,romfile= &
for i in $(seq 200); do grep -q "the machine is up" console 2>/dev/null && break; sleep 0.5; done
tail -3 console
sleep 2
ip netns exec c ping -c 2 -W 3 10.5.0.2 | grep -o "[0-9]* received"
ip netns exec c curl -sS -m 10 http://10.5.0.2/f
kill %1
