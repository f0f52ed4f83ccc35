/* oracle: user
 * What a datagram socket is told whose peer is gone, and who wrote what a reaped process wrote. */
#include "oracle.h"

int main(void)
{
	int sv[2], on = 1;
	M(socketpair(AF_UNIX, SOCK_DGRAM, 0, sv));
	close(sv[1]);
	usleep(100000);
	T(send(sv[0], "x", 1, 0));
	T(send(sv[0], "x", 1, 0));
	M(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	M(setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
	pid_t c = fork();
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
