/* Sends descriptors nobody asked for over the hidden socket, as itself and as a child that holds its parent's: what the
 * parent asks for must be answered about the parent's own. */
#include "abuse.h"

#define HIDDEN_SOCKET 1025

static int give(int number, unsigned slot, int fd)
{
	struct {
		unsigned slot;
		int number;
	} given = { slot, number };
	struct iovec iov = { &given, sizeof given };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .header = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	return raw6(SYS_sendmsg, HIDDEN_SOCKET, (long)&m, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0, 0);
}

int main(void)
{
	int own = memfd_create("own", 0), false_one = memfd_create("false", 0);
	if (ftruncate(own, 1111) || ftruncate(false_one, 2222)) return 1;
	struct stat s;
	/* Unasked, and about numbers that are not open: it harms nobody. */
	for (int i = 0; i < 300; i++) give(rng() % 40, rng() % 4, i % 2 ? false_one : HIDDEN_SOCKET);
	for (int fd = 0; fd < 40; fd++) fstat(fd, &s);
	int right = 0, wrong = 0;
	for (int round = 0; round < 30; round++) {
		pid_t child = fork();
		if (child == 0) {
			/* Not a single call that the supervisor would hear of. */
			for (int i = 0; i < 3000; i++) give(own, 0, false_one);
			raw6(SYS_exit_group, 0, 0, 0, 0, 0, 0);
		}
		for (int i = 0; i < 60; i++)
			if (fstat(own, &s) == 0) {
				right += s.st_size == 1111;
				wrong += s.st_size != 1111;
			}
		reap_within(child, 1500);
	}
	if (wrong) printf("ESCAPED: a child's descriptor was taken for its parent's\n");
	printf("%s\n", right ? "asked and answered" : "never answered");
	return 0;
}
