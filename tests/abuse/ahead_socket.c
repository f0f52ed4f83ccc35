/* Leaves a socket of its own where the shim of the next image looks for descriptors that were sent ahead: a program that is executed must
 * get none of them for a file that it opens. */
#include "abuse.h"
#include <sys/socket.h>

#define FD_AHEAD 1026
#define TRUE_FILE "/usr/lib/os-release"

/* Asks the same each time, so that the answer is foreseen. */
static int child(void)
{
	char text[64] = "";
	int fd = open(TRUE_FILE, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text - 1) < 0) return 2;
	if (strstr(text, "FALSE")) printf("ESCAPED: a file was opened that another program had chosen\n");
	return 0;
}

static void send_fd(int socket, uint64_t index, int fd)
{
	char control[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec iov = { &index, sizeof index };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(head), &fd, sizeof fd);
	sendmsg(socket, &message, 0);
}

int main(int argc, char **argv)
{
	if (argc > 1) return child();
	uintptr_t site = shim_call_site();
	int evil = memfd_create("evil", 0);
	if (!site || write(evil, "FALSE\n", 6) != 6) {
		printf("cannot be tried\n");
		return 3;
	}
	for (int round = 0; round < 8; round++) {
		pid_t c = fork();
		if (c == 0) {
			int pair[2];
			if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair)) _exit(3);
			for (uint64_t index = 0; index < 24; index++) {
				char path[64];
				snprintf(path, sizeof path, "/proc/self/fd/%d", evil);
				send_fd(pair[0], round & 1 ? index : 0, open(path, O_RDONLY));
			}
			if (shim6(site, SYS_dup2, pair[1], FD_AHEAD, 0, 0, 0, 0) != FD_AHEAD) printf("cannot place it\n");
			fflush(stdout);
			execl("/proc/self/exe", argv[0], "child", NULL);
			_exit(4);
		}
		if (reap_within(c, 5000)) printf("child: failed\n");
	}
	printf("tried\n");
	return 0;
}
