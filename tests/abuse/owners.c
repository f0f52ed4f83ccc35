/* Signals and descriptors by way of other processes: owners of descriptors that are host processes, the shim's own descriptors
 * through pidfd_getfd and kcmp, and what belongs to another user. */
#include "abuse.h"
#include <grp.h>

#define HIDDEN 1024

static struct { int type, pid; } owner;

int main(void)
{
	int sv[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv)) return 1;
	/* Numbers of the host are not numbers here. Natively, from the shim's text, the filter refuses each of these. */
	for (int pid = 1; pid < 70000; pid += pid < 400 ? 1 : 97) {
		if (kill(pid, 0) == 0) continue;
		if (fcntl(sv[0], F_SETOWN, pid) == 0) printf("ESCAPED: owner %d that is no process here\n", pid);
		if (fcntl(sv[0], F_SETOWN, -pid) == 0) printf("ESCAPED: owner group %d\n", pid);
		owner.type = 0;
		owner.pid = pid;
		if (fcntl(sv[0], F_SETOWN_EX, &owner) == 0) printf("ESCAPED: owner thread %d\n", pid);
	}
	/* The group of the sandbox's first process may have members outside. */
	if (fcntl(0, F_SETOWN, -getpgid(1)) == 0) printf("ESCAPED: the first process's group is an owner\n");
	int refused[] = { SIGKILL, SIGSTOP, SIGSYS };
	for (int i = 0; i < 3; i++)
		if (fcntl(sv[0], F_SETSIG, refused[i]) == 0) printf("ESCAPED: F_SETSIG %d\n", refused[i]);
	for (int command = 0; command < 64; command++) {
		if (command == F_SETOWN || command == F_SETSIG || command == 15) continue;
		fcntl(sv[0], command, (long)rng());
	}
	for (unsigned i = 0; i < 2000; i++) {
		fcntl(sv[0], F_SETFL, O_ASYNC | (int)(rng() & 0xffff));
		fcntl((int)(rng() % 4096), F_SETFL, O_ASYNC);
		fcntl(sv[0], 15, (long)rng());
	}
	/* The shim's descriptors of another process. */
	pid_t child = fork();
	if (child == 0)
		for (;;) pause();
	int pidfd = syscall(SYS_pidfd_open, child, 0);
	for (int fd = HIDDEN; fd < HIDDEN + 8; fd++) {
		int got = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
		if (got >= 0) printf("ESCAPED: hidden descriptor %d\n", fd);
		if (syscall(SYS_kcmp, getpid(), child, 0, fd, fd) >= 0) printf("ESCAPED: kcmp of hidden %d\n", fd);
	}
	/* What the number of a host thread would mean. */
	char text[256];
	snprintf(text, sizeof text, "/proc/self/fdinfo/%d", pidfd);
	FILE *f = fopen(text, "r");
	while (f && fgets(text, sizeof text, f)) {
		int pid;
		if (sscanf(text, "Pid: %d", &pid) == 1 && pid != child) printf("ESCAPED: fdinfo tells %d\n", pid);
	}
	/* Another user's. */
	if (fork() == 0) {
		if (setgroups(0, NULL) || setresgid(4242, 4242, 4242) || setresuid(4242, 4242, 4242)) _exit(1);
		if (syscall(SYS_pidfd_getfd, pidfd, 1, 0) >= 0) printf("ESCAPED: another user's descriptor\n");
		if (syscall(SYS_kcmp, getpid(), child, 0, 0, 0) >= 0) printf("ESCAPED: kcmp with another user's\n");
		if (fcntl(sv[0], F_SETOWN, child) == 0) printf("ESCAPED: another user's process is an owner\n");
		if (syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) == 0) printf("ESCAPED: killed another user's\n");
		if (setpriority(PRIO_PROCESS, child, 19) == 0) printf("ESCAPED: setpriority\n");
		if (syscall(SYS_ioprio_set, 1, child, 3 << 13) == 0) printf("ESCAPED: ioprio_set\n");
		cpu_set_t one;
		CPU_ZERO(&one);
		CPU_SET(0, &one);
		if (sched_setaffinity(child, sizeof one, &one) == 0) printf("ESCAPED: sched_setaffinity\n");
		_exit(0);
	}
	int st;
	wait(&st);
	kill(child, SIGKILL);
	printf("done\n");
	return 0;
}
