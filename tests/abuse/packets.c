/* Packet rings, netlink messages, socket options and ioctls that make no sense: all must be refused or do no harm, what they take is
 * bounded, and the supervisor goes on answering. */
#include "abuse.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>

static uint32_t word(void)
{
	static const uint32_t words[] = {0, 1, 2, 16, 48, 4096, 8192, 65536, 1 << 20, 1u << 31, UINT32_MAX, 2048};
	return rng() % 3 ? words[rng() % 12] : rng();
}

/* Frames to everybody on loopback, for whoever has a ring. */
static void send_frames(int fd, int count)
{
	char frame[1500] = {0};
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = if_nametoindex("lo"), .sll_halen = 6};
	for (int i = 0; i < count; i++) {
		frame[12] = 8;
		sendto(fd, frame, 14 + rng() % 1400, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to);
	}
}

static void rings(void)
{
	int sender = socket(AF_PACKET, SOCK_RAW, 0);
	for (int round = 0; round < 300; round++) {
		int fd = socket(AF_PACKET, rng() % 2 ? SOCK_RAW : SOCK_DGRAM, htons(ETH_P_ALL));
		int version = rng() % 3, reserve = rng() % 4 ? rng() % 300 : word();
		setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version);
		setsockopt(fd, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof reserve);
		struct tpacket_req3 req = {word(), word(), word(), word(), word(), word(), word()};
		if (rng() % 2) {
			req.tp_block_size = 4096 << rng() % 3;
			req.tp_block_nr = 1 + rng() % 4;
			req.tp_frame_size = 16 * (8 + rng() % 200);
			req.tp_frame_nr = req.tp_block_size / req.tp_frame_size * req.tp_block_nr;
			req.tp_sizeof_priv = rng() % 5000;
		}
		if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, rng() % 8 ? sizeof req : rng() % sizeof req) == 0) {
			size_t len = (size_t)req.tp_block_size * req.tp_block_nr;
			char *ring = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			if (mmap(NULL, len + 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED) puts("ESCAPED: more than the ring was mapped");
			for (int i = 0; ring != MAP_FAILED && len && i < 20; i++) {
				send_frames(sender, 5);
				for (int j = 0; j < 40; j++) *(uint32_t *)(ring + rng() % (len / 4) * 4) = word();
				struct pollfd wait = {.fd = fd, .events = POLLIN};
				poll(&wait, 1, 0);
			}
			if (ring != MAP_FAILED && len) munmap(ring, len);
		}
		close(fd);
	}
	/* Passed to somebody who has never asked for a ring. */
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	struct tpacket_req small = {4096, 1, 2048, 2};
	if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &small, sizeof small)) puts("ESCAPED: no ring");
	if (fork() == 0) {
		int copy = dup(fd);
		struct pollfd wait = {.fd = copy, .events = POLLIN};
		poll(&wait, 1, 50);
		mmap(NULL, 4096, PROT_READ, MAP_SHARED, copy, 0);
		_exit(0);
	}
	wait(NULL);
	/* All together are bounded. */
	struct tpacket_req large = {1 << 20, 64, 1 << 20, 64};
	int made = 0;
	for (int i = 0; i < 40; i++) {
		int more = socket(AF_PACKET, SOCK_RAW, 0);
		made += setsockopt(more, SOL_PACKET, PACKET_RX_RING, &large, sizeof large) == 0;
	}
	if (made > 8) printf("ESCAPED: %d rings of 64 MiB\n", made);
}

static void netlink(int protocol)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, protocol);
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	static char answer[65536];
	for (int round = 0; round < 4000; round++) {
		uint32_t message[64];
		for (int i = 0; i < 64; i++) message[i] = word();
		int count = 1 + rng() % 3, at = 0;
		for (int i = 0; i < count && at + 20 < (int)sizeof message; i++) {
			struct nlmsghdr *header = (void *)((char *)message + at);
			header->nlmsg_len = rng() % 6 ? 16 + rng() % 120 : word();
			header->nlmsg_type = rng() % 8 ? 16 + rng() % 90 : rng();
			header->nlmsg_flags = rng() % 4 ? NLM_F_REQUEST | (rng() % 2 ? NLM_F_DUMP : rng() % 0x800) : rng();
			/* Families and lengths of attributes that are nearly right. */
			char *body = (char *)(header + 1);
			body[0] = "\0\2\12\20\21\7"[rng() % 6];
			body[1] = "\6\21\377\0"[rng() % 4];
			for (int j = 4; j < 100 && rng() % 4; j += 4) *(uint16_t *)(body + j) = rng() % 40;
			at += (16 + rng() % 120) & ~3;
		}
		sendto(fd, message, at < (int)sizeof message ? at : (int)sizeof message, 0, (struct sockaddr *)&kernel, sizeof kernel);
		if (rng() % 2) while (recv(fd, answer, sizeof answer, 0) > 0) {}
	}
	close(fd);
}

static void calls(void)
{
	static const int kinds[][3] = {{AF_INET, SOCK_STREAM, 0}, {AF_INET6, SOCK_STREAM, 0}, {AF_INET, SOCK_DGRAM, 0},
		{AF_INET6, SOCK_DGRAM, 0}, {AF_INET, SOCK_RAW, 1}, {AF_INET6, SOCK_RAW, 58}, {AF_PACKET, SOCK_RAW, 768}, {AF_NETLINK, SOCK_RAW, 0}};
	static const int levels[] = {0, 1, 6, 17, 41, 58, 255, 263, 270};
	for (int round = 0; round < 6000; round++) {
		const int *kind = kinds[rng() % 8];
		int fd = socket(kind[0], kind[1] | SOCK_NONBLOCK, kind[2]);
		for (int i = 0; i < 8; i++) {
			uint32_t value[32];
			for (int j = 0; j < 32; j++) value[j] = word();
			if (rng() % 2) *(uint16_t *)value = kind[0];
			socklen_t len = rng() % 4 ? rng() % sizeof value : word();
			if (len > sizeof value) len = sizeof value;
			switch (rng() % 6) {
			case 0: setsockopt(fd, levels[rng() % 9], rng() % 80, value, len); break;
			case 1: getsockopt(fd, levels[rng() % 9], rng() % 80, value, &len); break;
			case 2: bind(fd, (void *)value, len); break;
			case 3: connect(fd, (void *)value, len); break;
			case 4: sendto(fd, value, rng() % sizeof value, MSG_DONTWAIT, (void *)value, len); break;
			default:
				/* A name that is there, so that more is looked at. */
				strcpy((char *)value, "lo");
				ioctl(fd, 0x8900 + rng() % 0x100, value);
			}
		}
		close(fd);
	}
}

int main(void)
{
	rng_state ^= getpid() * 2654435761u;
	signal(SIGPIPE, SIG_IGN);
	if (system("ip link set lo up")) puts("no ip");
	rings();
	netlink(NETLINK_ROUTE);
	netlink(NETLINK_SOCK_DIAG);
	netlink(NETLINK_GENERIC);
	calls();
	/* Everything still works. */
	if (unshare(CLONE_NEWNET) || system("ip link set lo up && ping -q -c 1 127.0.0.1 >/dev/null")) puts("ESCAPED: the network stands still");
	return 0;
}
