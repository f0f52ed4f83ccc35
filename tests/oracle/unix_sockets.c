/* oracle: user
 * AF_UNIX: by path, abstract and unnamed; stream, datagram, seqpacket; passed descriptors and credentials. */
#include "oracle.h"
#include <stddef.h>

static socklen_t addr(struct sockaddr_un *un, const char *p, int abstract)
{
	memset(un, 0, sizeof *un);
	un->sun_family = AF_UNIX;
	strcpy(un->sun_path + abstract, p);
	return offsetof(struct sockaddr_un, sun_path) + strlen(p) + 1;
}
static void name(const char *what, int (*get)(int, struct sockaddr *, socklen_t *), int fd)
{
	struct sockaddr_un un;
	socklen_t n = sizeof un;
	memset(&un, 0, sizeof un);
	if (get(fd, (void *)&un, &n)) printf("%s: %s\n", what, name_of(errno));
	else if (n <= 2) printf("%s: unnamed\n", what);
	else printf("%s: %s%s length %d\n", what, un.sun_path[0] ? "" : "@", un.sun_path[0] ? un.sun_path : un.sun_path + 1, (int)n);
}
#define NAME(f, fd) name(#f, (int (*)(int, struct sockaddr *, socklen_t *))f, fd)

static void talk(const char *path, int abstract, int type)
{
	struct sockaddr_un un;
	socklen_t n = addr(&un, path, abstract);
	if (abstract) n--;
	int l = M(socket(AF_UNIX, type, 0));
	T(bind(l, (void *)&un, n));
	T(listen(l, 2));
	pid_t c = fork();
	if (c == 0) {
		int s = M(socket(AF_UNIX, type, 0));
		T(connect(s, (void *)&un, n));
		NAME(getpeername, s);
		NAME(getsockname, s);
		T(connect(s, (void *)&un, n));
		M(send(s, "ping", 4, 0));
		char b[8] = "";
		T(recv(s, b, 8, 0));
		printf("client got %s\n", b);
		_exit(0);
	}
	int s = M(accept(l, NULL, NULL));
	char b[8] = "";
	struct ucred cr;
	socklen_t cl = sizeof cr;
	T(recv(s, b, 4, MSG_WAITALL));
	T(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &cr, &cl));
	printf("peer is child %d uid %d gid %d\n", cr.pid == c, cr.uid == getuid(), cr.gid == getgid());
	NAME(getsockname, s);
	NAME(getpeername, s);
	M(send(s, "pong", 4, 0));
	reap("client", c);
	T(recv(s, b, 4, 0));
	T(send(s, "x", 1, MSG_NOSIGNAL));
	int v = 0;
	socklen_t vl = sizeof v;
	T(getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &v, &vl));
	printf("listening %d\n", v);
	T(getsockopt(l, SOL_SOCKET, SO_TYPE, &v, &vl));
	printf("type %d\n", v);
	close(s);
	close(l);
	s = M(socket(AF_UNIX, type, 0));
	T(connect(s, (void *)&un, n));
	close(s);
	if (!abstract) {
		l = M(socket(AF_UNIX, type, 0));
		T(bind(l, (void *)&un, n));
		T(unlink(path));
		T(bind(l, (void *)&un, n));
		T(bind(l, (void *)&un, n));
		close(l);
		struct stat st;
		M(lstat(path, &st));
		printf("socket %d\n", S_ISSOCK(st.st_mode));
		M(unlink(path));
	}
}

static int send_fd(int s, int fd, int n)
{
	char c = 'F', buf[CMSG_SPACE(4 * 8)];
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = CMSG_SPACE(4 * n) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(4 * n);
	for (int i = 0; i < n; i++) memcpy(CMSG_DATA(h) + 4 * i, &fd, 4);
	return sendmsg(s, &m, 0);
}
static int recv_fds(int s, int *fds, int flags)
{
	char c, buf[256];
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf };
	if (recvmsg(s, &m, flags) < 0) return -1;
	int n = 0;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
		if (h->cmsg_type == SCM_RIGHTS) {
			n = (h->cmsg_len - CMSG_LEN(0)) / 4;
			memcpy(fds, CMSG_DATA(h), 4 * n);
		}
	return n;
}

int main(void)
{
	char b[64] = "";
	talk("sock", 0, SOCK_STREAM);
	talk("nomina-oracle-abstract", 1, SOCK_STREAM);
	talk("seq", 0, SOCK_SEQPACKET);

	struct sockaddr_un un;
	socklen_t n;
	/* A name the kernel chooses. */
	int a = M(socket(AF_UNIX, SOCK_STREAM, 0));
	un.sun_family = AF_UNIX;
	T(bind(a, (void *)&un, sizeof(sa_family_t)));
	n = sizeof un;
	memset(&un, 0, sizeof un);
	M(getsockname(a, (void *)&un, &n));
	printf("autobind length %d\n", (int)n);
	close(a);

	int sv[2], fds[8];
	T(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv));
	NAME(getsockname, sv[0]);
	NAME(getpeername, sv[0]);
	put_file("passed", "contents", 0644);
	int f = M(open("passed", O_RDONLY));
	T(send_fd(sv[0], f, 1));
	close(f);
	T(recv_fds(sv[1], fds, 0));
	T(read(fds[0], b, 8));
	printf("%.8s\n", b);
	close(fds[0]);
	f = M(open(".", O_RDONLY | O_DIRECTORY));
	T(send_fd(sv[0], f, 2));
	close(f);
	T(recv_fds(sv[1], fds, MSG_CMSG_CLOEXEC));
	T(fcntl(fds[0], F_GETFD));
	T(openat(fds[1], "passed", O_RDONLY));
	T(fchdir(fds[0]));
	T(send_fd(sv[0], 99, 1));
	/* Passed to another process, which opens below it. */
	pid_t c = fork();
	if (c == 0) {
		M(chdir("/"));
		T(recv_fds(sv[1], fds, 0));
		int g = T(openat(fds[0], "passed", O_RDONLY));
		T(read(g, b, 8));
		printf("%.8s\n", b);
		_exit(0);
	}
	/* Said when the receiver has said all: both print. */
	int sent = send_fd(sv[0], fds[0], 1);
	reap("receiver", c);
	T(sent);
	int on = 1;
	T(setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
	c = fork();
	if (c == 0) {
		if (write(sv[0], "c", 1) != 1) _exit(1);
		pause();
	}
	char one, buf[256];
	struct iovec v = { &one, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf };
	T(recvmsg(sv[1], &m, 0));
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_type == SCM_CREDENTIALS) {
		struct ucred cr;
		memcpy(&cr, CMSG_DATA(h), sizeof cr);
		printf("credentials: pid is the writer's %d uid %d\n", cr.pid == c, cr.uid == getuid());
	}
	kill(c, SIGKILL);
	reap("writer", c);
	T(shutdown(sv[0], SHUT_WR));
	T(read(sv[1], b, 1));
	T(socket(AF_UNIX, 99, 0));
	T(socket(99, SOCK_STREAM, 0));
	T(bind(sv[0], (void *)&un, 1));
	n = addr(&un, "missing/sock", 0);
	T(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, n));
	T(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, n));
	n = addr(&un, "passed", 0);
	T(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, n));
	n = addr(&un, "", 1);
	T(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, n));
	/* A socket made in a removed directory, reached by a relative path. */
	M(mkdir("dd", 0755));
	M(chdir("dd"));
	n = addr(&un, "../rel", 0);
	int l = M(socket(AF_UNIX, SOCK_STREAM, 0));
	T(bind(l, (void *)&un, n));
	T(listen(l, 1));
	M(chdir(".."));
	n = addr(&un, "rel", 0);
	T(connect(M(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)), (void *)&un, n));
	M(rename("rel", "renamed"));
	n = addr(&un, "renamed", 0);
	T(connect(M(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)), (void *)&un, n));
	M(chmod("renamed", 0));
	T(connect(M(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0)), (void *)&un, n));
	return 0;
}
