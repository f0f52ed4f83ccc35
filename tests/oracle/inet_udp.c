/* oracle: user root
 * UDP over the loopback device: names, connected and not, ancillary data, groups, what is refused. */
#include "inet.h"

static int sends(int fd, const char *ip, int port, const char *text)
{
	addr_t a = at(ip, port);
	return sendto(fd, text, strlen(text), 0, &a.sa, size_of(&a));
}
static void receives(const char *what, int fd, int flags)
{
	char b[64] = "";
	addr_t a;
	socklen_t n = sizeof a;
	memset(&a, 0, sizeof a);
	long r = recvfrom(fd, b, sizeof b - 1, flags, &a.sa, &n);
	if (r < 0) printf("%s: %s\n", what, name_of(errno));
	else printf("%s: %ld \"%s\" from %s\n", what, r, b, show(&a, n));
}
static int bound(int family, const char *ip)
{
	int fd = M(socket(family, SOCK_DGRAM, 0));
	M(bind_to(fd, ip, 0));
	return fd;
}

static void talk(int family, const char *binds, const char *to)
{
	printf("-- %d %s %s\n", family, binds, to);
	int s = M(socket(family, SOCK_DGRAM, 0));
	NAME(getsockname, s);
	T(bind_to(s, binds, 0));
	NAME(getsockname, s);
	polled("nothing", s, 0);
	int c = M(socket(strchr(to, ':') ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	T(sends(c, to, port_of(s), "hello"));
	NAME(getsockname, c);
	NAME(getpeername, c);
	polled("something", s, 1000);
	int n = 0;
	T(ioctl(s, FIONREAD, &n));
	printf("readable %d\n", n);
	receives("peek", s, MSG_PEEK);
	addr_t a;
	socklen_t al = sizeof a;
	char b[8] = "";
	struct iovec v = { b, 3 };
	struct msghdr m = { &a, al, &v, 1, 0, 0, 0 };
	T(recvmsg(s, &m, 0));
	printf("%.3s flags %x from %s, the sender's port %d\n", b, m.msg_flags, show(&a, m.msg_namelen), ntohs(a.in.sin_port) == port_of(c));
	T(sendto(s, "back", 4, 0, &a.sa, m.msg_namelen));
	receives("answer", c, 0);
	receives("nothing more", c, 0);
	T(sends(c, to, port_of(s), ""));
	receives("empty", s, 0);
	T(connect_to(c, to, port_of(s)));
	NAME(getsockname, c);
	NAME(getpeername, c);
	T(write(c, "written", 7));
	T(send(c, "sent", 4, 0));
	receives("written", s, 0);
	receives("sent", s, 0);
	T(sends(c, to, port_of(s), "also"));
	receives("also", s, 0);
	a.sa.sa_family = AF_UNSPEC;
	T(connect(c, &a.sa, sizeof a.in));
	NAME(getpeername, c);
	T(connect_to(c, to, port_of(s)));
	close(c);
	close(s);
}

static void connected_hear_only_their_peer(void)
{
	printf("-- connected\n");
	int a = bound(AF_INET, "127.0.0.1"), b = bound(AF_INET, "127.0.0.1"), c = bound(AF_INET, "127.0.0.1");
	T(connect_to(a, "127.0.0.1", port_of(b)));
	T(sends(c, "127.0.0.1", port_of(a), "stranger"));
	T(sends(b, "127.0.0.1", port_of(a), "friend"));
	receives("a", a, MSG_DONTWAIT);
	receives("a", a, MSG_DONTWAIT);
	/* Nobody is there any more. */
	close(b);
	T(send(a, "x", 1, 0));
	msleep(30);
	struct pollfd p = { a, POLLIN, 0 };
	T(poll(&p, 1, 1000));
	receives("refused", a, MSG_DONTWAIT);
	receives("refused", a, MSG_DONTWAIT);
	T(opt(a, SOL_SOCKET, SO_ERROR) == 0);
	T(sends(c, "127.0.0.1", 1, "to nobody"));
	receives("unconnected", c, MSG_DONTWAIT);
	T(sends(c, "127.0.0.1", 1, "to nobody"));
	receives("errors", c, MSG_ERRQUEUE | MSG_DONTWAIT);
	close(a);
	close(c);
}

static void refusals(void)
{
	printf("-- refusals\n");
	static char big[70000];
	T(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
	int s = bound(AF_INET, "127.0.0.1"), r = bound(AF_INET, "127.0.0.1");
	addr_t a = at("127.0.0.1", port_of(r));
	T(sendto(s, big, 65507, 0, &a.sa, sizeof a.in));
	T(recv(r, big, sizeof big, 0));
	T(sendto(s, big, 20000, 0, &a.sa, sizeof a.in));
	T(recv(r, big, 100, MSG_TRUNC));
	T(sendto(s, big, 65508, 0, &a.sa, sizeof a.in));
	T(sendto(s, big, 1, 0, &a.sa, 8));
	a.sa.sa_family = AF_UNIX;
	T(sendto(s, big, 1, 0, &a.sa, sizeof a.in));
	a.sa.sa_family = AF_UNSPEC;
	T(sendto(s, "u", 1, 0, &a.sa, sizeof a.in));
	T(recv(r, big, 10, 0));
	T(sends(s, "127.0.0.1", 0, "x"));
	T(sends(s, "255.255.255.255", 9, "x"));
	T(connect_to(s, "255.255.255.255", 9));
	T(listen(s, 1));
	T(bind_to(s, "127.0.0.1", 0));
	int q = M(socket(AF_INET, SOCK_DGRAM, 0));
	T(bind_to(q, "127.0.0.1", port_of(r)));
	T(bind_to(q, "192.0.2.1", 0));
	set(q, SOL_SOCKET, SO_REUSEADDR, 1);
	T(bind_to(q, "127.0.0.1", port_of(r)));
	set(r, SOL_SOCKET, SO_REUSEADDR, 1);
	T(bind_to(q, "127.0.0.1", port_of(r)));
	T(sendto(s, "x", 1, MSG_OOB, &a.sa, sizeof a.in));
	close(q);
	int six = M(socket(AF_INET6, SOCK_DGRAM, 0));
	T(sends(six, "127.0.0.1", port_of(r), "v4 address"));
	receives("v4 address", r, 0);
	T(set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	close(six);
	six = M(socket(AF_INET6, SOCK_DGRAM, 0));
	M(set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	T(sends(six, "::ffff:127.0.0.1", port_of(r), "x"));
	T(connect_to(six, "::ffff:127.0.0.1", port_of(r)));
	close(six);
	close(s);
	close(r);
}

static void told(int fd)
{
	char b[16] = "", c[256];
	addr_t a;
	struct iovec v = { b, sizeof b };
	struct msghdr m = { &a, sizeof a, &v, 1, c, sizeof c, 0 };
	long r = recvmsg(fd, &m, MSG_DONTWAIT);
	printf("told: %ld flags %x\n", r, m.msg_flags);
	if (r < 0) return;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		printf("  level %d type %d length %d", h->cmsg_level, h->cmsg_type, (int)h->cmsg_len);
		int n;
		memcpy(&n, CMSG_DATA(h), 4);
		char ip[64];
		if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo *i = (void *)CMSG_DATA(h);
			printf(" index %d %s", i->ipi_ifindex, inet_ntop(AF_INET, &i->ipi_spec_dst, ip, sizeof ip));
			printf(" %s", inet_ntop(AF_INET, &i->ipi_addr, ip, sizeof ip));
		} else if (h->cmsg_level == IPPROTO_IPV6 && h->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo *i = (void *)CMSG_DATA(h);
			printf(" index %d %s", (int)i->ipi6_ifindex, inet_ntop(AF_INET6, &i->ipi6_addr, ip, sizeof ip));
		} else if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_TOS) printf(" %d", *CMSG_DATA(h));
		else if (h->cmsg_level != SOL_SOCKET) printf(" %d", h->cmsg_type == IP_ORIGDSTADDR ? 0 : n);
		printf("\n");
	}
}

static void ancillary(void)
{
	printf("-- ancillary\n");
	int r = bound(AF_INET, "0.0.0.0"), s = bound(AF_INET, "127.0.0.1");
	int names[] = { IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_RECVORIGDSTADDR };
	for (int i = 0; i < 4; i++) T(set(r, IPPROTO_IP, names[i], 1));
	T(sends(s, "127.0.0.7", port_of(r), "a"));
	told(r);
	T(set(s, IPPROTO_IP, IP_TTL, 3));
	T(set(s, IPPROTO_IP, IP_TOS, 0x10));
	T(sends(s, "127.0.0.1", port_of(r), "b"));
	told(r);
	/* From another of the own addresses, with a hop limit. */
	int any = bound(AF_INET, "0.0.0.0");
	char c[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(int))];
	memset(c, 0, sizeof c);
	addr_t a = at("127.0.0.1", port_of(r));
	struct iovec v = { "c", 1 };
	struct msghdr m = { &a, sizeof a.in, &v, 1, c, sizeof c, 0 };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = IPPROTO_IP;
	h->cmsg_type = IP_PKTINFO;
	h->cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo));
	inet_pton(AF_INET, "127.0.0.9", &((struct in_pktinfo *)CMSG_DATA(h))->ipi_spec_dst);
	h = CMSG_NXTHDR(&m, h);
	h->cmsg_level = IPPROTO_IP;
	h->cmsg_type = IP_TTL;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(h) = 77;
	T(sendmsg(any, &m, 0));
	told(r);
	h->cmsg_type = 99;
	T(sendmsg(any, &m, 0));
	T(set(r, SOL_SOCKET, SO_TIMESTAMP, 1));
	T(sends(s, "127.0.0.1", port_of(r), "d"));
	told(r);
	close(r);
	r = bound(AF_INET6, "::");
	T(set(r, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
	T(set(r, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
	int s6 = bound(AF_INET6, "::1");
	T(sends(s6, "::1", port_of(r), "e"));
	told(r);
	T(sends(s, "127.0.0.1", port_of(r), "f"));
	receives("mapped", r, MSG_DONTWAIT);
	close(r);
	close(s);
	close(s6);
	close(any);
}

static void many(void)
{
	printf("-- many at once\n");
	int r = bound(AF_INET, "127.0.0.1"), s = bound(AF_INET, "127.0.0.1");
	addr_t a = at("127.0.0.1", port_of(r)), from[4];
	struct iovec v[4] = { { "one", 3 }, { "two", 3 }, { "three", 5 } };
	struct mmsghdr m[4];
	memset(m, 0, sizeof m);
	for (int i = 0; i < 3; i++) m[i].msg_hdr = (struct msghdr){ &a, sizeof a.in, v + i, 1, 0, 0, 0 };
	T(sendmmsg(s, m, 3, 0));
	printf("%d %d %d\n", m[0].msg_len, m[1].msg_len, m[2].msg_len);
	char b[4][8];
	for (int i = 0; i < 4; i++) {
		v[i] = (struct iovec){ b[i], 8 };
		m[i].msg_hdr = (struct msghdr){ from + i, sizeof *from, v + i, 1, 0, 0, 0 };
	}
	T(recvmmsg(r, m, 4, MSG_WAITFORONE, NULL));
	printf("%d %d %d, from the sender %d\n", m[0].msg_len, m[1].msg_len, m[2].msg_len, ntohs(from[2].in.sin_port) == port_of(s));
	close(r);
	close(s);
}

static void groups(void)
{
	printf("-- groups\n");
	int r = bound(AF_INET, "0.0.0.0"), q = M(socket(AF_INET, SOCK_DGRAM, 0)), s = bound(AF_INET, "127.0.0.1");
	struct ip_mreqn mr = { { 0 }, { 0 }, 0 };
	inet_pton(AF_INET, "239.1.2.3", &mr.imr_multiaddr);
	inet_pton(AF_INET, "127.0.0.1", &mr.imr_address);
	T(setsockopt(r, IPPROTO_IP, IP_DROP_MEMBERSHIP, &mr, sizeof(struct ip_mreq)));
	T(setsockopt(r, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, sizeof(struct ip_mreq)));
	T(setsockopt(r, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, sizeof(struct ip_mreq)));
	T(setsockopt(r, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, 4));
	mr.imr_ifindex = 1234;
	T(setsockopt(q, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, sizeof mr));
	inet_pton(AF_INET, "10.1.2.3", &mr.imr_multiaddr);
	T(setsockopt(q, IPPROTO_IP, IP_ADD_MEMBERSHIP, &mr, sizeof(struct ip_mreq)));
	T(setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &mr.imr_address, 4));
	T(set(s, IPPROTO_IP, IP_MULTICAST_TTL, 7));
	T(sends(s, "239.1.2.3", port_of(r), "to all"));
	receives("member", r, MSG_DONTWAIT);
	T(set(s, IPPROTO_IP, IP_MULTICAST_LOOP, 0));
	T(sends(s, "239.1.2.3", port_of(r), "to others"));
	receives("member", r, MSG_DONTWAIT);
	close(r);
	close(q);
	close(s);
}

int main(void)
{
	talk(AF_INET, "127.0.0.1", "127.0.0.1");
	talk(AF_INET, "0.0.0.0", "127.1.2.3");
	talk(AF_INET6, "::1", "::1");
	talk(AF_INET6, "::", "127.0.0.1");
	connected_hear_only_their_peer();
	refusals();
	ancillary();
	many();
	groups();
	return 0;
}
