/* oracle: user root
 * Datagram sockets: names, peers, ancillary data, credentials, limits. */
#include "oracle.h"
#include <stddef.h>

static socklen_t addr(struct sockaddr_un *un, const char *name, int abstract)
{
	memset(un, 0, sizeof *un);
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path + abstract, name);
	return offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1;
}

static void show(const char *what, struct sockaddr_un *un, socklen_t n)
{
	printf("%s: length %d", what, (int)n);
	/* Abstract names are the host's: one of its own for each run, whose end is not shown. */
	if (n > 2) printf(" %s%.13s", un->sun_path[0] ? "" : "@", un->sun_path + !un->sun_path[0]);
	printf("\n");
}

#define NAME(call, fd)                                                            \
	({                                                                        \
		struct sockaddr_un name_un = { 0 };                               \
		socklen_t name_n = sizeof name_un;                                \
		if (T(call(fd, (void *)&name_un, &name_n)) == 0) show(#call, &name_un, name_n); \
	})

static void receive(int s, int flags)
{
	char data[64] = "", buf[512];
	struct sockaddr_un from = { 0 };
	struct iovec v = { data, 8 };
	struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &v, .msg_iovlen = 1,
			    .msg_control = buf, .msg_controllen = sizeof buf };
	if (T(recvmsg(s, &m, flags)) < 0) return;
	printf("\"%.8s\" flags %x\n", data, m.msg_flags & ~MSG_CMSG_CLOEXEC);
	show("from", &from, m.msg_namelen);
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
		if (h->cmsg_type == SCM_RIGHTS) {
			int n = (h->cmsg_len - CMSG_LEN(0)) / 4, fd;
			printf("%d descriptors\n", n);
			for (int i = 0; i < n; i++) {
				memcpy(&fd, CMSG_DATA(h) + 4 * i, 4);
				char c = '?';
				printf(" read %ld", (long)pread(fd, &c, 1, 0));
				printf(" %c cloexec %d\n", c, fcntl(fd, F_GETFD));
				close(fd);
			}
		} else if (h->cmsg_type == SCM_CREDENTIALS) {
			struct ucred cr;
			memcpy(&cr, CMSG_DATA(h), sizeof cr);
			printf("from me: %d %d %d\n", cr.pid == getpid(), cr.uid == getuid(), cr.gid == getgid());
		} else {
			time_t sent;
			memcpy(&sent, CMSG_DATA(h), sizeof sent);
			printf("kind %d, %d bytes, now: %d\n", h->cmsg_type, (int)(h->cmsg_len - CMSG_LEN(0)), labs(time(NULL) - sent) < 5);
		}
}

static long send_with(int s, struct sockaddr_un *to, socklen_t n, int fd, int credentials)
{
	char buf[128] = "";
	struct iovec v[2] = { { "da", 2 }, { "ta", 2 } };
	struct msghdr m = { .msg_name = to, .msg_namelen = n, .msg_iov = v, .msg_iovlen = 2, .msg_control = buf };
	struct cmsghdr *h = (struct cmsghdr *)buf;
	if (fd >= 0) {
		*h = (struct cmsghdr){ CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(h), &fd, sizeof fd);
		m.msg_controllen = CMSG_SPACE(sizeof fd);
	}
	if (credentials) {
		struct ucred cr = { getpid() + (credentials > 1), getuid(), getgid() };
		h = (struct cmsghdr *)(buf + m.msg_controllen);
		*h = (struct cmsghdr){ CMSG_LEN(sizeof cr), SOL_SOCKET, SCM_CREDENTIALS };
		memcpy(CMSG_DATA(h), &cr, sizeof cr);
		m.msg_controllen += CMSG_SPACE(sizeof cr);
	}
	return sendmsg(s, &m, 0);
}

int main(void)
{
	char b[64] = "";
	struct sockaddr_un server, client, other, from;
	socklen_t sn = addr(&server, "server", 0), cn, on = addr(&other, "other", 0);
	socklen_t fl = sizeof from;
	char own[32];
	snprintf(own, sizeof own, "nomina-oracle-%010d", getpid());
	cn = addr(&client, own, 1);
	int s = T(socket(AF_UNIX, SOCK_DGRAM, 0)), c = T(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	T(fcntl(c, F_GETFD));
	NAME(getsockname, s);
	NAME(getpeername, s);
	T(bind(s, (void *)&server, sn));
	T(bind(s, (void *)&other, on));
	T(bind(c, (void *)&server, sn));
	NAME(getsockname, s);
	T(sendto(c, "hello", 5, 0, (void *)&server, sn));
	T(recvfrom(s, b, 64, 0, (void *)&from, &fl));
	show("unnamed", &from, fl);
	T(bind(c, (void *)&client, cn));
	NAME(getsockname, c);
	T(connect(c, (void *)&server, sn));
	NAME(getpeername, c);
	T(send(c, "again", 5, 0));
	T(write(c, "twice", 5));
	fl = sizeof from;
	T(recvfrom(s, b, 3, MSG_PEEK, (void *)&from, &fl));
	show("peeked", &from, fl);
	T(recv(s, b, 3, MSG_TRUNC));
	T(read(s, b, 64));
	printf("%s\n", b);
	T(sendto(s, "reply", 5, 0, (void *)&from, fl));
	receive(c, 0);
	T(recv(c, b, 64, MSG_DONTWAIT));
	receive(c, MSG_DONTWAIT);

	/* Who is connected hears only its peer. */
	int d = T(socket(AF_UNIX, SOCK_DGRAM, 0));
	T(sendto(d, "x", 1, 0, (void *)&client, cn));
	T(connect(d, (void *)&client, cn));
	T(connect(s, (void *)&client, cn));
	T(sendto(d, "x", 1, 0, (void *)&server, sn));
	T(send(s, "peers", 5, 0));
	T(recv(c, b, 64, 0));
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	T(connect(s, &none, sizeof none));
	NAME(getpeername, s);
	T(sendto(d, "free", 4, 0, (void *)&server, sn));
	T(recv(s, b, 64, 0));

	/* Descriptors and credentials. */
	int f = M(open("passed", O_CREAT | O_RDWR, 0600)), one = 1, kind = 0;
	M(write(f, "content", 7));
	T(send_with(d, &server, sn, f, 0));
	receive(s, 0);
	T(send_with(d, &server, sn, f, 0));
	receive(s, MSG_CMSG_CLOEXEC);
	T(send_with(d, &server, sn, 99, 0));
	T(send_with(d, &server, sn, -1, 1));
	receive(s, 0);
	T(setsockopt(s, SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
	T(send_with(d, &server, sn, f, 1));
	receive(s, 0);
	T(send_with(d, &server, sn, -1, 0));
	receive(s, 0);
	if (getuid()) T(send_with(d, &server, sn, -1, 2));
	T(send_with(d, &server, sn, f, 0));
	T(recv(s, b, 64, 0));
	fl = sizeof kind;
	T(getsockopt(s, SOL_SOCKET, SO_TYPE, &kind, &fl));
	printf("type %d\n", kind);
	T(getsockopt(s, SOL_SOCKET, SO_DOMAIN, &kind, &fl));
	printf("domain %d\n", kind);
	T(getsockopt(s, SOL_SOCKET, SO_PASSCRED, &kind, &fl));
	printf("passes credentials %d\n", kind);
	struct ucred cr = { 7, 7, 7 };
	fl = sizeof cr;
	T(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &cr, &fl));
	printf("peer %d %d %d\n", cr.pid, (int)cr.uid, (int)cr.gid);

	/* Time stamps come before what else comes. */
	T(setsockopt(s, SOL_SOCKET, SO_TIMESTAMP, &one, sizeof one));
	fl = sizeof kind;
	T(getsockopt(s, SOL_SOCKET, SO_TIMESTAMP, &kind, &fl));
	printf("time stamps %d\n", kind);
	T(send_with(d, &server, sn, f, 0));
	receive(s, 0);
	T(setsockopt(s, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one));
	T(send_with(d, &server, sn, f, 1));
	receive(s, 0);
	one = 0;
	T(setsockopt(s, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one));
	T(send_with(d, &server, sn, -1, 0));
	receive(s, 0);
	one = 1;

	/* Many at once. */
	struct mmsghdr mm[3] = { 0 };
	struct iovec v[3] = { { "a", 1 }, { "bc", 2 }, { "", 0 } };
	for (int i = 0; i < 3; i++)
		mm[i].msg_hdr = (struct msghdr){ .msg_name = &server, .msg_namelen = sn, .msg_iov = &v[i], .msg_iovlen = 1 };
	T(sendmmsg(d, mm, 3, 0));
	printf("%u %u %u\n", mm[0].msg_len, mm[1].msg_len, mm[2].msg_len);
	char in[3][8] = { "", "", "" };
	for (int i = 0; i < 3; i++) {
		v[i] = (struct iovec){ in[i], 8 };
		mm[i].msg_hdr = (struct msghdr){ .msg_iov = &v[i], .msg_iovlen = 1 };
	}
	usleep(50000);
	T(recvmmsg(s, mm, 3, MSG_WAITFORONE, NULL));
	printf("%u %u %u %s %s\n", mm[0].msg_len, mm[1].msg_len, mm[2].msg_len, in[0], in[1]);

	/* Names that lead nowhere, or to something else. */
	int t = T(socket(AF_UNIX, SOCK_STREAM, 0)), u = T(socket(AF_UNIX, SOCK_SEQPACKET, 0));
	T(connect(t, (void *)&server, sn));
	T(connect(u, (void *)&server, sn));
	T(connect(t, (void *)&client, cn));
	t = T(socket(AF_UNIX, SOCK_STREAM, 0));
	T(bind(t, (void *)&other, on));
	T(sendto(d, "x", 1, 0, (void *)&other, on));
	T(connect(d, (void *)&other, on));
	T(listen(t, 1));
	T(sendto(d, "x", 1, 0, (void *)&other, on));
	T(sendto(t, "x", 1, 0, (void *)&server, sn));
	on = addr(&other, "missing", 0);
	T(sendto(d, "x", 1, 0, (void *)&other, on));
	on = addr(&other, "passed", 0);
	T(sendto(d, "x", 1, 0, (void *)&other, on));
	on = addr(&other, "nomina-oracle-nobody", 1);
	T(sendto(d, "x", 1, 0, (void *)&other, on));
	T(sendto(d, "x", 1, 0, (void *)&other, 1));
	M(chmod("server", 0));
	if (getuid()) T(sendto(d, "x", 1, 0, (void *)&server, sn));
	M(chmod("server", 0700));
	M(rename("server", "moved"));
	T(sendto(d, "x", 1, 0, (void *)&server, sn));
	sn = addr(&server, "moved", 0);
	T(sendto(d, "x", 1, 0, (void *)&server, sn));
	T(recv(s, b, 64, 0));
	NAME(getsockname, s);
	close(s);
	usleep(50000);
	T(sendto(d, "x", 1, 0, (void *)&server, sn));
	T(socket(AF_UNIX, SOCK_DGRAM, 17));

	/* A name the kernel chooses. */
	int a = M(socket(AF_UNIX, SOCK_DGRAM, 0));
	T(bind(a, (void *)&other, sizeof(sa_family_t)));
	fl = sizeof other;
	M(getsockname(a, (void *)&other, &fl));
	printf("autobind length %d\n", (int)fl);
	T(connect(c, (void *)&other, fl));

	/* Pairs, across fork, with waiting. */
	int sv[2], st;
	T(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, sv));
	fl = sizeof cr;
	T(getsockopt(sv[0], SOL_SOCKET, SO_PEERCRED, &cr, &fl));
	printf("peer is me: %d %d %d\n", cr.pid == getpid(), cr.uid == getuid(), cr.gid == getgid());
	NAME(getpeername, sv[0]);
	T(recv(sv[0], b, 64, 0));
	struct pollfd p = { sv[0], POLLIN | POLLOUT, 0 };
	T(poll(&p, 1, 0));
	printf("events %x\n", p.revents);
	pid_t child = fork();
	if (child == 0) {
		usleep(50000);
		_exit(write(sv[1], "from the child", 14) != 14);
	}
	p.events = POLLIN;
	T(poll(&p, 1, 5000));
	T(recv(sv[0], b, 64, 0));
	waitpid(child, &st, 0);
	printf("child %d\n", st);
	/* Everything that was sent arrives, in order, when the sender has to wait for room. */
	child = fork();
	if (child == 0) {
		fcntl(sv[1], F_SETFL, 0);
		for (int i = 0; i < 2000; i++)
			if (write(sv[1], &i, sizeof i) != sizeof i) _exit(1);
		_exit(0);
	}
	fcntl(sv[0], F_SETFL, 0);
	int wrong = 0;
	usleep(50000);
	for (int i = 0, k; i < 2000; i++) wrong += read(sv[0], &k, sizeof k) != sizeof k || k != i;
	waitpid(child, &st, 0);
	printf("child %d wrong %d\n", st, wrong);
	return 0;
}
