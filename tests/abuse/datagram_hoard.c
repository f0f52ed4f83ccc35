/* Datagram sockets that hold one another in messages nobody can take. The kernel collects such cycles; where the supervisor
 * stands in their middle it must at least not run out of descriptors: what needs none of these sockets goes on. */
#include "abuse.h"

static void send_fds(int to, const int *fds, int n)
{
	char control[CMSG_SPACE(250 * sizeof(int))] = { 0 }, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	sendmsg(to, &m, MSG_DONTWAIT);
}

int main(void)
{
	static char big[60000];
	int refused = 0;
	time_t since = time(NULL);
	for (int i = 0; i < 6000 && time(NULL) - since < 40 && refused < 50; i++) {
		int pair[2], carried[202];
		if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair)) {
			refused++;
			continue;
		}
		for (int j = 0; j < 30 && send(pair[0], big, sizeof big, MSG_DONTWAIT) > 0; j++)
			if (j % 4 == 3)
				sched_yield();
		carried[0] = pair[0];
		carried[1] = pair[1];
		for (int j = 2; j < 202; j++)
			carried[j] = 2;
		for (int j = 0; j < 3; j++) {
			send_fds(pair[0], carried, 202);
			usleep(100);
		}
		close(pair[0]);
		close(pair[1]);
	}
	for (int i = 0; i < 20; i++) {
		int fd = open("/etc/passwd", O_RDONLY), dir = open("/", O_RDONLY | O_DIRECTORY);
		pid_t child = fork();
		if (child == 0)
			_exit(open("/etc/passwd", O_RDONLY) < 0);
		int status = 1;
		waitpid(child, &status, 0);
		if (fd < 0 || dir < 0 || child < 0 || status) {
			printf("BROKEN: the supervisor has no descriptors left: %d %d %d %d %s\n", fd, dir, child, status, strerror(errno));
			return 1;
		}
		close(fd);
		close(dir);
	}
	return 0;
}
