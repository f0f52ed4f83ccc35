/* oracle: user
 * What a datagram socket is told whose peer is gone, and who wrote what a reaped process wrote. */
#include "oracle.h"
#include <sys/un.h>

static int bound(const char *name)
{
	int s = M(socket(AF_UNIX, SOCK_DGRAM, 0));
	struct sockaddr_un a = { AF_UNIX, "" };
	strcpy(a.sun_path, name);
	M(bind(s, (void *)&a, sizeof a));
	return s;
}

static int to(int s, const char *name)
{
	struct sockaddr_un a = { AF_UNIX, "" };
	strcpy(a.sun_path, name);
	return connect(s, (void *)&a, sizeof a);
}

static void gone(int s, const char *how)
{
	struct iovec v = { "x", 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	printf("-- %s\n", how);
	usleep(100000);
	T(send(s, "x", 1, 0));
	T(send(s, "x", 1, 0));
	T(write(s, "x", 1));
	T(sendmsg(s, &m, 0));
	T(recv(s, &(char){0}, 1, MSG_DONTWAIT));
}

int main(void)
{
	int sv[2], on = 1;
	M(socketpair(AF_UNIX, SOCK_DGRAM, 0, sv));
	T(send(sv[0], "x", 1, 0));
	close(sv[1]);
	gone(sv[0], "the other end of a pair");

	int server = bound("first"), client = M(socket(AF_UNIX, SOCK_DGRAM, 0));
	T(to(client, "first"));
	T(send(client, "x", 1, 0));
	close(server);
	unlink("first");
	gone(client, "a server");
	server = bound("second");
	T(to(client, "second"));
	T(send(client, "again", 5, 0));
	char text[8];
	T(recv(server, text, sizeof text, 0));
	close(server);
	gone(client, "another server");
	unlink("second");

	/* The one that is left is in another process than the one that made the pair. */
	M(socketpair(AF_UNIX, SOCK_DGRAM, 0, sv));
	pid_t c = fork();
	if (c == 0) {
		close(sv[0]);
		M(getppid());
		T(recv(sv[1], text, 2, 0));
		gone(sv[1], "in a child");
		fflush(stdout);
		_exit(0);
	}
	fflush(stdout);
	close(sv[1]);
	T(send(sv[0], "go", 2, 0));
	fflush(stdout);
	close(sv[0]);
	reap("child", c);

	M(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	M(setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
	c = fork();
	if (c == 0) _exit(write(sv[0], "c", 1) != 1);
	reap("writer", c);
	char one, buf[256];
	struct iovec v = { &one, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf };
	T(recvmsg(sv[1], &m, 0));
	struct ucred cr;
	memcpy(&cr, CMSG_DATA((struct cmsghdr *)buf), sizeof cr);
	printf("pid is the writer's %d\n", cr.pid == c);
	return 0;
}
