/* oracle: user root
 * TCP over the loopback device: names, data both ways, half-close, reset, what bind(2) refuses. */
#include "inet.h"

static void talk(int family, const char *listens, const char *to)
{
	printf("-- %d %s %s\n", family, listens, to);
	int l = M(socket(family, SOCK_STREAM, 0));
	NAME(getsockname, l);
	NAME(getpeername, l);
	T(bind_to(l, listens, 0));
	NAME(getsockname, l);
	T(bind_to(l, listens, 0));
	T(listen(l, 5));
	T(opt(l, SOL_SOCKET, SO_ACCEPTCONN));
	polled("listener", l, 0);
	int port = port_of(l);
	int c = M(socket(strchr(to, ':') ? AF_INET6 : AF_INET, SOCK_STREAM, 0));
	T(connect_to(c, to, port));
	T(connect_to(c, to, port));
	NAME(getsockname, c);
	NAME(getpeername, c);
	polled("listener with a connection", l, 1000);
	addr_t peer;
	socklen_t n = sizeof peer;
	int s = M(accept4(l, &peer.sa, &n, SOCK_CLOEXEC));
	printf("accepted from %s, close-on-exec %d, the client's port %d\n", show(&peer, n), fcntl(s, F_GETFD),
	       port_of(c) == ntohs(peer.in.sin_port));
	NAME(getsockname, s);
	NAME(getpeername, s);
	printf("same port %d\n", port_of(s) == port);
	char b[16] = "";
	T(send(c, "hello", 5, 0));
	T(recv(s, b, 5, MSG_WAITALL));
	printf("server got %s\n", b);
	T(sendto(s, "world", 5, 0, &peer.sa, n));
	n = sizeof peer;
	T(recvfrom(c, b, sizeof b, 0, &peer.sa, &n));
	printf("client got %.5s and %s\n", b, show(&peer, n));
	T(shutdown(c, SHUT_WR));
	polled("half closed", s, 1000);
	T(recv(s, b, sizeof b, 0));
	T(recv(s, b, sizeof b, MSG_DONTWAIT));
	T(send(s, "more", 4, 0));
	T(send(c, "x", 1, MSG_NOSIGNAL));
	close(s);
	T(recv(c, b, sizeof b, 0));
	T(recv(c, b, sizeof b, 0));
	close(c);
	close(l);
}

static void refusals(void)
{
	printf("-- refusals\n");
	T(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
	T(socket(AF_INET, SOCK_SEQPACKET, 0));
	T(socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP) < 0);
	T(socket(AF_INET, SOCK_STREAM, 300));
	int s = M(socket(AF_INET, SOCK_STREAM, 0));
	addr_t a = at("127.0.0.1", 0);
	T(bind(s, &a.sa, 8));
	a.sa.sa_family = AF_UNIX;
	T(bind(s, &a.sa, sizeof a.in));
	T(connect(s, &a.sa, sizeof a.in));
	T(connect(s, &a.sa, 1));
	a = at("::1", 0);
	T(bind(s, &a.sa, sizeof a.in6));
	T(connect(s, &a.sa, sizeof a.in6));
	T(bind_to(s, "192.0.2.1", 0));
	T(connect_to(s, "224.0.0.1", 80));
	T(connect_to(s, "255.255.255.255", 80));
	a.sa.sa_family = AF_UNSPEC;
	T(connect(s, &a.sa, sizeof a.in));
	T(accept(s, NULL, NULL));
	T(shutdown(s, 7));
	close(s);
	s = M(socket(AF_INET6, SOCK_STREAM, 0));
	a = at("127.0.0.1", 0);
	T(bind(s, &a.sa, sizeof a.in));
	T(bind_to(s, "2001:db8::1", 0));
	T(bind_to(s, "ff02::1", 0));
	close(s);
	T(bind(1000, &a.sa, sizeof a.in));
	T(bind(0, &a.sa, sizeof a.in));
}

static void taken(void)
{
	printf("-- taken\n");
	int l = listener(AF_INET, SOCK_STREAM, "127.0.0.1"), port = port_of(l);
	int s = M(socket(AF_INET, SOCK_STREAM, 0));
	T(bind_to(s, "127.0.0.1", port));
	T(bind_to(s, "0.0.0.0", port));
	T(set(s, SOL_SOCKET, SO_REUSEADDR, 1));
	T(bind_to(s, "127.0.0.1", port));
	T(bind_to(s, "127.0.0.2", port));
	int six = M(socket(AF_INET6, SOCK_STREAM, 0));
	T(bind_to(six, "::ffff:127.0.0.1", port));
	T(bind_to(six, "::", port));
	T(set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1));
	T(bind_to(six, "::", port));
	T(set(six, IPPROTO_IPV6, IPV6_V6ONLY, 0));
	close(six);
	close(s);
	close(l);
	s = M(socket(AF_INET, SOCK_STREAM, 0));
	T(bind_to(s, "127.0.0.1", port));
	close(s);
	/* Two with SO_REUSEADDR may bind, and one listen. */
	int p = M(socket(AF_INET, SOCK_STREAM, 0)), q = M(socket(AF_INET, SOCK_STREAM, 0));
	set(p, SOL_SOCKET, SO_REUSEADDR, 1);
	set(q, SOL_SOCKET, SO_REUSEADDR, 1);
	T(bind_to(p, "127.0.0.1", port));
	T(bind_to(q, "127.0.0.1", port));
	T(listen(p, 1));
	T(listen(q, 1));
	close(p);
	T(listen(q, 1));
	close(q);
	p = M(socket(AF_INET, SOCK_STREAM, 0)), q = M(socket(AF_INET, SOCK_STREAM, 0));
	set(p, SOL_SOCKET, SO_REUSEPORT, 1);
	set(q, SOL_SOCKET, SO_REUSEPORT, 1);
	T(bind_to(p, "127.0.0.1", port));
	T(bind_to(q, "127.0.0.1", port));
	T(listen(p, 1));
	T(listen(q, 1));
	close(p);
	close(q);
	/* A listener without a name gets a port. */
	p = M(socket(AF_INET, SOCK_STREAM, 0));
	T(listen(p, 1));
	NAME(getsockname, p);
	q = M(socket(AF_INET, SOCK_STREAM, 0));
	T(connect_to(q, "0.0.0.0", port_of(p)));
	NAME(getpeername, q);
	T(connect_to(p, "127.0.0.1", port_of(p)));
	T(listen(q, 1));
	close(p);
	close(q);
}

static void ends(void)
{
	printf("-- ends\n");
	int l = listener(AF_INET, SOCK_STREAM, "127.0.0.1");
	int c = M(socket(AF_INET, SOCK_STREAM, 0));
	M(connect_to(c, "127.0.0.1", port_of(l)));
	int s = M(accept(l, NULL, NULL));
	polled("idle", c, 0);
	M(send(s, "abc", 3, 0));
	polled("data", c, 1000);
	int n = 0;
	T(ioctl(c, FIONREAD, &n));
	printf("readable %d\n", n);
	char b[8] = "";
	T(recv(c, b, 2, MSG_PEEK));
	T(recv(c, b, 8, 0));
	T(recv(c, b, 8, MSG_DONTWAIT));
	/* Urgent data. */
	T(send(s, "!", 1, MSG_OOB));
	struct pollfd urgent = { c, POLLPRI, 0 };
	T(poll(&urgent, 1, 1000));
	T(recv(c, b, 1, MSG_OOB));
	printf("urgent %c\n", b[0]);
	T(recv(c, b, 1, MSG_OOB));
	/* A close with something unread resets. */
	M(send(c, "unread", 6, 0));
	msleep(20);
	close(s);
	msleep(20);
	polled("reset", c, 1000);
	T(recv(c, b, 8, 0));
	T(recv(c, b, 8, 0));
	T(send(c, "x", 1, MSG_NOSIGNAL));
	close(c);
	/* A refused one. */
	int port = port_of(l);
	close(l);
	c = M(socket(AF_INET, SOCK_STREAM, 0));
	T(connect_to(c, "127.0.0.1", port));
	NAME(getsockname, c);
	NAME(getpeername, c);
	T(opt(c, SOL_SOCKET, SO_ERROR));
	T(connect_to(c, "127.0.0.1", port));
	l = M(socket(AF_INET, SOCK_STREAM, 0));
	T(bind_to(l, "127.0.0.1", port));
	T(listen(l, 1));
	T(connect_to(c, "127.0.0.1", port));
	close(l);
	close(c);
}

int main(void)
{
	talk(AF_INET, "127.0.0.1", "127.0.0.1");
	talk(AF_INET, "0.0.0.0", "127.0.0.1");
	talk(AF_INET, "0.0.0.0", "127.1.2.3");
	talk(AF_INET6, "::1", "::1");
	talk(AF_INET6, "::", "::1");
	talk(AF_INET6, "::", "127.0.0.1");
	talk(AF_INET6, "::ffff:127.0.0.1", "127.0.0.1");
	refusals();
	taken();
	ends();
	return 0;
}
