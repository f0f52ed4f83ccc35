/* A program at the other end of a TUN or TAP device: tuntap tun|tap. It asks for the stack's link-layer address, pings it, and opens
 * TCP connections to a port with a listener and to one without. tuntap.rs and tuntap.py do and print the same. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int fd, tap;
static uint8_t me[6] = {2, 0, 0, 0, 0, 7}, theirs[6];
static const uint8_t own[4] = {10, 9, 0, 1}, mine[4] = {10, 9, 0, 2};

static uint16_t sum(const uint8_t *bytes, size_t len, uint32_t start) {
	for (size_t i = 0; i < len; i++) start += i % 2 ? bytes[i] : bytes[i] << 8;
	while (start >> 16) start = (start & 0xffff) + (start >> 16);
	return ~start;
}

static void put16(uint8_t *at, uint16_t value) {
	at[0] = value >> 8;
	at[1] = value;
}

static void send_ip(int protocol, const uint8_t *payload, size_t len) {
	uint8_t frame[200] = {0}, *ip = frame;
	if (tap) {
		memcpy(frame, theirs, 6);
		memcpy(frame + 6, me, 6);
		put16(frame + 12, 0x0800);
		ip += 14;
	}
	ip[0] = 0x45;
	put16(ip + 2, 20 + len);
	ip[8] = 64;
	ip[9] = protocol;
	memcpy(ip + 12, mine, 4);
	memcpy(ip + 16, own, 4);
	put16(ip + 10, sum(ip, 20, 0));
	memcpy(ip + 20, payload, len);
	size_t all = ip + 20 + len - frame;
	printf("write %s\n", write(fd, frame, all) == (ssize_t)all ? "whole" : strerror(errno));
}

/* The next packet of a protocol, from its network header on; 0: ARP. */
static uint8_t *receive(int protocol) {
	static uint8_t frame[2048];
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	while (poll(&wait, 1, 3000) > 0) {
		ssize_t len = read(fd, frame, sizeof frame);
		uint8_t *network = tap ? frame + 14 : frame;
		if (len < 28) continue;
		if (tap && frame[12] == 8 && frame[13] == 6 && !protocol && network[7] == 2) return frame;
		if ((!tap || (frame[12] == 8 && frame[13] == 0)) && network[0] == 0x45 && network[9] == protocol) return network;
	}
	puts("nothing");
	exit(1);
}

static void syn(int port) {
	uint8_t segment[20] = {0};
	put16(segment, 4000);
	put16(segment + 2, port);
	put16(segment + 6, 100);
	segment[12] = 0x50;
	segment[13] = 2;
	put16(segment + 14, 1000);
	uint32_t pseudo = (10 << 8 | 9) + 1 + (10 << 8 | 9) + 2 + 6 + 20;
	put16(segment + 16, sum(segment, 20, pseudo));
	send_ip(6, segment, 20);
	uint8_t *ip = receive(6), *tcp = ip + 20;
	printf("port %d: from %d flags 0x%02x acknowledges %d\n", port, tcp[0] << 8 | tcp[1], tcp[13], tcp[10] << 8 | tcp[11]);
}

int main(int argc, char **argv) {
	(void)argc;
	tap = !strcmp(argv[1], "tap");
	fd = open("/dev/net/tun", O_RDWR);
	struct ifreq ifr = {.ifr_flags = (tap ? IFF_TAP : IFF_TUN) | IFF_NO_PI};
	strcpy(ifr.ifr_name, "t%d");
	printf("TUNSETIFF %d %s\n", ioctl(fd, TUNSETIFF, &ifr), ifr.ifr_name);
	int second = open("/dev/net/tun", O_RDWR);
	printf("busy %s\n", ioctl(second, TUNSETIFF, &ifr) ? strerror(errno) : "no");
	close(second);
	if (system("ip link set lo up; ip addr add 10.9.0.1/24 dev t0; ip link set t0 up")) return 1;
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(7000)};
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1)) return 1;
	if (tap) {
		uint8_t arp[42] = {255, 255, 255, 255, 255, 255};
		memcpy(arp + 6, me, 6);
		memcpy(arp + 12, (uint8_t[]){8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, 10);
		memcpy(arp + 22, me, 6);
		memcpy(arp + 28, mine, 4);
		memcpy(arp + 38, own, 4);
		printf("write %zd\n", write(fd, arp, sizeof arp));
		uint8_t *frame = receive(0);
		memcpy(theirs, frame + 6, 6);
		printf("ARP %d.%d.%d.%d is at its sender: %s\n", frame[28], frame[29], frame[30], frame[31],
			memcmp(frame + 22, theirs, 6) ? "no" : "yes");
	}
	uint8_t echo[12] = {8, 0, 0, 0, 0, 9, 0, 1, 'p', 'i', 'n', 'g'};
	put16(echo + 2, sum(echo, sizeof echo, 0));
	send_ip(1, echo, sizeof echo);
	uint8_t *ip = receive(1);
	printf("ICMP type %d id %d %.4s ttl %d\n", ip[20], ip[25], ip + 28, ip[8]);
	syn(7000);
	syn(7001);
	return 0;
}
