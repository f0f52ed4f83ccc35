/* Addresses of the Internet families for oracle programs: all on the loopback device, ports chosen by the kernel, none printed. */
#include "oracle.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

typedef union {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
} addr_t;

static inline socklen_t size_of(const addr_t *a)
{
	return a->sa.sa_family == AF_INET6 ? sizeof a->in6 : sizeof a->in;
}
/* An address; port in host order. */
static inline addr_t at(const char *ip, int port)
{
	addr_t a;
	memset(&a, 0, sizeof a);
	if (strchr(ip, ':')) {
		a.in6.sin6_family = AF_INET6;
		a.in6.sin6_port = htons(port);
		inet_pton(AF_INET6, ip, &a.in6.sin6_addr);
	} else {
		a.in.sin_family = AF_INET;
		a.in.sin_port = htons(port);
		inet_pton(AF_INET, ip, &a.in.sin_addr);
	}
	return a;
}
static inline int port_of(int fd)
{
	addr_t a;
	socklen_t n = sizeof a;
	if (getsockname(fd, &a.sa, &n)) return -1;
	return ntohs(a.sa.sa_family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port);
}
/* A name without its port, which only is said to be there. */
static inline const char *show(const addr_t *a, socklen_t n)
{
	static char b[128];
	char ip[64] = "";
	if (n == 0) return "no address";
	int six = a->sa.sa_family == AF_INET6;
	inet_ntop(a->sa.sa_family, six ? (void *)&a->in6.sin6_addr : (void *)&a->in.sin_addr, ip, sizeof ip);
	snprintf(b, sizeof b, "family %d %s %s length %d", a->sa.sa_family, ip,
		 (six ? a->in6.sin6_port : a->in.sin_port) ? "port" : "no port", (int)n);
	return b;
}
#define NAME(get, fd)                                                            \
	do {                                                                     \
		addr_t name_a;                                                   \
		socklen_t name_n = sizeof name_a;                                \
		memset(&name_a, 0, sizeof name_a);                               \
		if (get(fd, &name_a.sa, &name_n)) printf(#get "(" #fd "): %s\n", name_of(errno)); \
		else printf(#get "(" #fd "): %s\n", show(&name_a, name_n));      \
	} while (0)

static inline int bind_to(int fd, const char *ip, int port)
{
	addr_t a = at(ip, port);
	return bind(fd, &a.sa, size_of(&a));
}
static inline int connect_to(int fd, const char *ip, int port)
{
	addr_t a = at(ip, port);
	return connect(fd, &a.sa, size_of(&a));
}
static inline int listener(int family, int type, const char *ip)
{
	int fd = M(socket(family, type, 0));
	M(bind_to(fd, ip, 0));
	M(listen(fd, 8));
	return fd;
}
/* What poll(2) finds, without POLLRDHUP and what follows from it unless asked for. */
static inline void polled(const char *what, int fd, int ms)
{
	struct pollfd p = { fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0 };
	int r = poll(&p, 1, ms);
	printf("%s: poll %d%s%s%s%s%s%s\n", what, r, p.revents & POLLIN ? " IN" : "", p.revents & POLLOUT ? " OUT" : "",
	       p.revents & POLLPRI ? " PRI" : "", p.revents & POLLERR ? " ERR" : "", p.revents & POLLHUP ? " HUP" : "",
	       p.revents & POLLRDHUP ? " RDHUP" : "");
}
static inline int opt(int fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof v;
	if (getsockopt(fd, level, name, &v, &n)) return -errno;
	return v;
}
static inline int set(int fd, int level, int name, int v)
{
	return setsockopt(fd, level, name, &v, sizeof v);
}
