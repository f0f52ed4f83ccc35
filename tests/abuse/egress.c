/* Every way to a forbidden port of the host beside an allowed one. argv: ALLOWED FORBIDDEN (ports, TCP and UDP) OWN (an address of
 * the host) GATEWAY (by which the host's loopback is reached). The host counts what comes to the forbidden port: nothing may. */
#include "abuse.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>

static int allowed, forbidden;
static const char *gateway;

static socklen_t address(struct sockaddr_storage *to, const char *host, int port)
{
	memset(to, 0, sizeof *to);
	struct sockaddr_in *v4 = (void *)to;
	struct sockaddr_in6 *v6 = (void *)to;
	if (strchr(host, ':')) {
		v6->sin6_family = AF_INET6, v6->sin6_port = htons(port);
		inet_pton(AF_INET6, host, &v6->sin6_addr);
		return sizeof *v6;
	}
	v4->sin_family = AF_INET, v4->sin_port = htons(port);
	inet_pton(AF_INET, host, &v4->sin_addr);
	return sizeof *v4;
}

static void connects(const char *host, int port)
{
	struct sockaddr_storage to;
	socklen_t len = address(&to, host, port);
	for (int mode = 0; mode < 3; mode++) {
		int s = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0, r;
		if (mode == 0) r = connect(s, (void *)&to, len);
		else if (mode == 1) r = sendto(s, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&to, len);
		else {
			/* Refused once, then asked again for the same socket. */
			connect(s, (void *)&to, len);
			r = connect(s, (void *)&to, len);
		}
		if (r < 0 && (errno == EINPROGRESS || errno == EALREADY)) {
			struct pollfd p = { s, POLLOUT, 0 };
			socklen_t n = sizeof error;
			poll(&p, 1, 3000);
			getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &n);
			struct sockaddr_storage peer;
			n = sizeof peer;
			r = !error && getpeername(s, (void *)&peer, &n) == 0 ? 0 : -1;
		}
		if (r >= 0) printf("ESCAPED: connected to %s port %d, mode %d\n", host, port, mode);
		close(s);
	}
	int u = socket(to.ss_family, SOCK_DGRAM, 0);
	sendto(u, "loot", 4, 0, (void *)&to, len);
	if (connect(u, (void *)&to, len) == 0) send(u, "loot", 4, 0);
	close(u);
}

/* One thread changes the port while another connects and sends: what was checked is what is used. */
static struct sockaddr_in flipped;
static volatile int stop;

static void *flip(void *unused)
{
	(void)unused;
	while (!stop) {
		*(volatile in_port_t *)&flipped.sin_port = htons(allowed);
		*(volatile in_port_t *)&flipped.sin_port = htons(forbidden);
	}
	return 0;
}

static void races(void)
{
	struct sockaddr_storage to;
	pthread_t thread;
	address(&to, gateway, allowed);
	memcpy(&flipped, &to, sizeof flipped);
	pthread_create(&thread, 0, flip, 0);
	for (int i = 0; i < 300; i++) {
		int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), u = socket(AF_INET, SOCK_DGRAM, 0);
		connect(s, (void *)&flipped, sizeof flipped);
		sendto(u, "flip", 4, MSG_DONTWAIT, (void *)&flipped, sizeof flipped);
		struct iovec v = { "flip", 4 };
		struct mmsghdr m[2] = { { { &flipped, sizeof flipped, &v, 1, 0, 0, 0 }, 0 }, { { &flipped, sizeof flipped, &v, 1, 0, 0, 0 }, 0 } };
		sendmmsg(u, m, 2, MSG_DONTWAIT);
		close(s), close(u);
	}
	stop = 1;
	pthread_join(thread, 0);
}

/* A socket that may send to one port, used for another: by its own process, a child, and one that was passed it. */
static void borrowed(void)
{
	struct sockaddr_storage good, bad;
	socklen_t len = address(&good, gateway, allowed);
	address(&bad, gateway, forbidden);
	int u = socket(AF_INET, SOCK_DGRAM, 0), pair[2];
	sendto(u, "good", 4, 0, (void *)&good, len);
	connect(u, (void *)&good, len);
	struct iovec v = { "loot", 4 };
	struct mmsghdr m[3] = { { { &good, len, &v, 1, 0, 0, 0 }, 0 }, { { &bad, len, &v, 1, 0, 0, 0 }, 0 }, { { 0, 0, &v, 1, 0, 0, 0 }, 0 } };
	sendto(u, "loot", 4, 0, (void *)&bad, len);
	sendmmsg(u, m + 1, 1, 0);
	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	if (fork() == 0) {
		char b, control[CMSG_SPACE(sizeof(int))];
		struct iovec in = { &b, 1 };
		struct msghdr h = { 0, 0, &in, 1, control, sizeof control, 0 };
		sendto(u, "loot", 4, 0, (void *)&bad, len);
		close(u);
		if (recvmsg(pair[1], &h, 0) == 1) {
			int passed = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&h));
			sendto(passed, "loot", 4, 0, (void *)&bad, len);
			sendmmsg(passed, m + 1, 1, 0);
			connect(passed, (void *)&bad, len);
			send(passed, "loot", 4, 0);
			/* A connected stream is not connected anew. */
			write(passed, "loot", 4);
		}
		_exit(0);
	}
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec out = { "x", 1 };
	struct msghdr h = { 0, 0, &out, 1, control, sizeof control, 0 };
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);
	c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &u, sizeof u);
	sendmsg(pair[0], &h, 0);
	wait(0);
	struct sockaddr_storage none = { .ss_family = AF_UNSPEC };
	int s = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(s, (void *)&good, len) == 0) {
		if (connect(s, (void *)&bad, len) == 0) printf("ESCAPED: a connected socket was connected again\n");
		connect(s, (void *)&none, sizeof none);
		if (connect(s, (void *)&bad, len) == 0) printf("ESCAPED: a disconnected socket was connected\n");
		if (sendto(s, "loot", 4, MSG_NOSIGNAL | MSG_FASTOPEN, (void *)&bad, len) > 0 && getpeername(s, (void *)&none, &len) == 0)
			printf("ESCAPED: a disconnected socket sends\n");
	}
}

/* As many connections as there are descriptors, most of them given up half way; others go on. */
static void flood(void)
{
	struct sockaddr_storage to;
	socklen_t len = address(&to, gateway, allowed);
	for (int round = 0; round < 3; round++) {
		int fds[300], n = 0;
		while (n < 300 && (fds[n] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) >= 0) connect(fds[n++], (void *)&to, len);
		while (n) close(fds[--n]);
	}
	for (int i = 0; i < 100; i++) {
		int s = socket(AF_INET, SOCK_STREAM, 0), r = connect(s, (void *)&to, len);
		close(s);
		if (r == 0) { printf("goes on\n"); return; }
		usleep(50000);
	}
	printf("nobody is reached any more: %s\n", strerrorname_np(errno));
}

int main(int argc, char **argv)
{
	if (argc < 5) return 2;
	allowed = atoi(argv[1]), forbidden = atoi(argv[2]), gateway = argv[4];
	const char *names[] = { "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.2.2", "::1", "::", "fd00::2", "::ffff:127.0.0.1", "::ffff:10.0.2.2",
				"::ffff:0.0.0.0", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1", argv[3] };
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) connects(names[i], forbidden);
	const char *metadata[] = { "169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "100.100.100.200", "64:ff9b::a9fe:a9fe" };
	for (unsigned i = 0; i < sizeof metadata / sizeof *metadata; i++) connects(metadata[i], 80);
	const int families[][3] = { { AF_VSOCK, SOCK_STREAM, 0 }, { AF_TIPC, SOCK_STREAM, 0 }, { AF_BLUETOOTH, SOCK_RAW, 1 }, { AF_ALG, SOCK_SEQPACKET, 0 },
				    { AF_INET, SOCK_STREAM, 262 }, { AF_INET, SOCK_STREAM, 132 }, { AF_SMC, SOCK_STREAM, 0 }, { AF_RXRPC, SOCK_DGRAM, AF_INET } };
	for (unsigned i = 0; i < sizeof families / sizeof *families; i++)
		if (socket(families[i][0], families[i][1], families[i][2]) >= 0) printf("ESCAPED: a socket of family %d\n", families[i][0]);
	races();
	borrowed();
	flood();
	printf("done\n");
	return 0;
}
