/* oracle: user root
 * Options of Internet sockets: what they are at first, what they take, what is read back. */
#include "inet.h"
#include <netinet/udp.h>

#define O(level, name) { level, name, #level " " #name }
static const struct { int level, name; const char *text; } numbers[] = {
	O(SOL_SOCKET, SO_TYPE), O(SOL_SOCKET, SO_DOMAIN), O(SOL_SOCKET, SO_PROTOCOL), O(SOL_SOCKET, SO_ERROR),
	O(SOL_SOCKET, SO_ACCEPTCONN), O(SOL_SOCKET, SO_REUSEADDR), O(SOL_SOCKET, SO_REUSEPORT), O(SOL_SOCKET, SO_KEEPALIVE),
	O(SOL_SOCKET, SO_BROADCAST), O(SOL_SOCKET, SO_OOBINLINE), O(SOL_SOCKET, SO_DONTROUTE), O(SOL_SOCKET, SO_PRIORITY),
	O(SOL_SOCKET, SO_TIMESTAMP), O(SOL_SOCKET, SO_RCVLOWAT), O(SOL_SOCKET, SO_MARK), O(SOL_SOCKET, SO_BINDTODEVICE),
	O(IPPROTO_IP, IP_TOS), O(IPPROTO_IP, IP_TTL), O(IPPROTO_IP, IP_MTU_DISCOVER), O(IPPROTO_IP, IP_RECVERR),
	O(IPPROTO_IP, IP_PKTINFO), O(IPPROTO_IP, IP_RECVTTL), O(IPPROTO_IP, IP_FREEBIND), O(IPPROTO_IP, IP_MULTICAST_TTL),
	O(IPPROTO_IP, IP_MULTICAST_LOOP), O(IPPROTO_IP, IP_MTU), O(IPPROTO_IP, IP_MINTTL), O(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
	O(IPPROTO_IPV6, IPV6_V6ONLY), O(IPPROTO_IPV6, IPV6_UNICAST_HOPS), O(IPPROTO_IPV6, IPV6_MULTICAST_HOPS),
	O(IPPROTO_IPV6, IPV6_MULTICAST_LOOP), O(IPPROTO_IPV6, IPV6_TCLASS), O(IPPROTO_IPV6, IPV6_RECVPKTINFO),
	O(IPPROTO_IPV6, IPV6_MTU_DISCOVER), O(IPPROTO_TCP, TCP_NODELAY), O(IPPROTO_TCP, TCP_CORK), O(IPPROTO_TCP, TCP_MAXSEG),
	O(IPPROTO_TCP, TCP_KEEPIDLE), O(IPPROTO_TCP, TCP_KEEPINTVL), O(IPPROTO_TCP, TCP_KEEPCNT), O(IPPROTO_TCP, TCP_SYNCNT),
	O(IPPROTO_TCP, TCP_LINGER2), O(IPPROTO_TCP, TCP_DEFER_ACCEPT), O(IPPROTO_TCP, TCP_QUICKACK),
	O(IPPROTO_TCP, TCP_USER_TIMEOUT), O(IPPROTO_TCP, TCP_FASTOPEN), O(IPPROTO_TCP, 999), O(IPPROTO_IP, 999), O(SOL_SOCKET, 999),
	O(IPPROTO_IPV6, 999), O(IPPROTO_UDP, 999), O(77, 1),
};

static void one(int fd, unsigned i)
{
	int v = -1;
	socklen_t n = sizeof v;
	if (getsockopt(fd, numbers[i].level, numbers[i].name, &v, &n)) printf("%s: %s\n", numbers[i].text, name_of(errno));
	else printf("%s: %d length %d\n", numbers[i].text, n ? v : 0, (int)n);
}
static void all(const char *what, int fd)
{
	printf("-- %s\n", what);
	for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) one(fd, i);
}
#define SET(fd, level, name, value)                                              \
	do {                                                                     \
		int set_r = set(fd, level, name, value), set_e = errno;          \
		printf("set " #name " " #value ": %s", set_r ? name_of(set_e) : "ok"); \
		printf(" -> %d\n", opt(fd, level, name));                        \
	} while (0)

int main(void)
{
	int s = M(socket(AF_INET, SOCK_STREAM, 0));
	all("tcp", s);
	SET(s, SOL_SOCKET, SO_REUSEADDR, 7);
	SET(s, SOL_SOCKET, SO_KEEPALIVE, 1);
	SET(s, SOL_SOCKET, SO_PRIORITY, 6);
	SET(s, SOL_SOCKET, SO_TYPE, 1);
	SET(s, SOL_SOCKET, SO_ERROR, 1);
	SET(s, SOL_SOCKET, SO_RCVLOWAT, 0);
	SET(s, IPPROTO_IP, IP_TOS, 0x13);
	SET(s, IPPROTO_IP, IP_TTL, 5);
	SET(s, IPPROTO_IP, IP_TTL, -1);
	SET(s, IPPROTO_IP, IP_TTL, 0);
	SET(s, IPPROTO_IP, IP_TTL, 256);
	SET(s, IPPROTO_IP, IP_MTU_DISCOVER, 6);
	SET(s, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	SET(s, IPPROTO_TCP, TCP_NODELAY, -3);
	SET(s, IPPROTO_TCP, TCP_KEEPIDLE, 0);
	SET(s, IPPROTO_TCP, TCP_KEEPIDLE, 32767);
	SET(s, IPPROTO_TCP, TCP_KEEPIDLE, 32768);
	SET(s, IPPROTO_TCP, TCP_KEEPINTVL, 10);
	SET(s, IPPROTO_TCP, TCP_KEEPCNT, 128);
	SET(s, IPPROTO_TCP, TCP_SYNCNT, 3);
	SET(s, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
	SET(s, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
	SET(s, IPPROTO_TCP, TCP_DEFER_ACCEPT, 30);
	SET(s, IPPROTO_TCP, TCP_USER_TIMEOUT, -1);
	SET(s, IPPROTO_TCP, TCP_USER_TIMEOUT, 1000);
	SET(s, IPPROTO_TCP, TCP_MAXSEG, 10);
	SET(s, IPPROTO_TCP, TCP_MAXSEG, 1000);
	SET(s, IPPROTO_TCP, TCP_LINGER2, -1);
	SET(s, IPPROTO_TCP, TCP_QUICKACK, 0);
	char name[16] = "";
	socklen_t n = sizeof name;
	T(getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, name, &n));
	printf("length %d\n", (int)n);
	T(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
	n = sizeof name;
	T(getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, name, &n));
	printf("%s\n", name);
	T(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "nothing", 7));
	T(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, "x", 1));
	T(setsockopt(s, IPPROTO_IP, IP_TTL, "\7", 1));
	T(opt(s, IPPROTO_IP, IP_TTL));
	n = 1;
	name[0] = 0;
	T(getsockopt(s, IPPROTO_IP, IP_TTL, name, &n));
	printf("length %d value %d\n", (int)n, name[0]);
	struct linger li = { 1, 5 };
	n = sizeof li;
	T(setsockopt(s, SOL_SOCKET, SO_LINGER, &li, sizeof li));
	T(getsockopt(s, SOL_SOCKET, SO_LINGER, &li, &n));
	printf("linger %d %d\n", li.l_onoff, li.l_linger);
	SET(s, SOL_SOCKET, SO_RCVBUF, 10000);
	SET(s, SOL_SOCKET, SO_SNDBUF, 10000);
	T(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
	n = sizeof name;
	T(getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, name, &n));
	printf("%s length %d\n", name, (int)n);
	T(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "nodev", 6));
	struct tcp_info info;
	n = sizeof info;
	T(getsockopt(s, IPPROTO_TCP, TCP_INFO, &info, &n));
	printf("state %d\n", info.tcpi_state);
	struct ucred cr;
	n = sizeof cr;
	T(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &cr, &n));
	printf("pid %d uid %d\n", cr.pid, (int)cr.uid);
	close(s);

	/* What accept(2) inherits. */
	int l = listener(AF_INET, SOCK_STREAM, "127.0.0.1");
	set(l, IPPROTO_TCP, TCP_NODELAY, 1);
	set(l, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(l, IPPROTO_IP, IP_TOS, 0x10);
	int c = M(socket(AF_INET, SOCK_STREAM, 0));
	M(connect_to(c, "127.0.0.1", port_of(l)));
	int a = M(accept(l, NULL, NULL));
	printf("inherited %d %d %d\n", opt(a, IPPROTO_TCP, TCP_NODELAY), opt(a, SOL_SOCKET, SO_KEEPALIVE), opt(a, IPPROTO_IP, IP_TOS));
	printf("type %d domain %d protocol %d\n", opt(a, SOL_SOCKET, SO_TYPE), opt(a, SOL_SOCKET, SO_DOMAIN), opt(a, SOL_SOCKET, SO_PROTOCOL));
	n = sizeof info;
	T(getsockopt(a, IPPROTO_TCP, TCP_INFO, &info, &n));
	printf("state %d\n", info.tcpi_state);
	T(opt(c, IPPROTO_IP, IP_MTU));
	close(a);
	close(c);
	close(l);

	s = M(socket(AF_INET6, SOCK_STREAM, 0));
	all("tcp of IPv6", s);
	SET(s, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	SET(s, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 300);
	SET(s, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 0);
	SET(s, IPPROTO_IPV6, IPV6_UNICAST_HOPS, -1);
	SET(s, IPPROTO_IPV6, IPV6_TCLASS, 256);
	SET(s, IPPROTO_IPV6, IPV6_TCLASS, 8);
	SET(s, IPPROTO_IP, IP_TTL, 9);
	M(bind_to(s, "::1", 0));
	SET(s, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	close(s);
	return 0;
}
