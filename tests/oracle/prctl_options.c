/* oracle: user
 * Every option of prctl(2), and of arch_prctl(2), with harmless arguments, each in a process of its own: what is said of those that
 * are not known, and what is checked first. */
#include "oracle.h"
#include <sys/prctl.h>

static void one(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	fflush(stdout);
	pid_t p = fork();
	if (p == 0) {
		errno = 0;
		long r = syscall(SYS_prctl, option, a, b, c, d);
		int e = errno;
		/* Slack and addresses are the system's own. */
		if (r > 64)
			printf("prctl %d (%lx %lx %lx %lx): much\n", option, a, b, c, d);
		else
			printf("prctl %d (%lx %lx %lx %lx): %s %ld\n", option, a, b, c, d, r < 0 ? name_of(e) : "ok", r < 0 ? 0 : r);
		fflush(stdout);
		_exit(0);
	}
	int st;
	waitpid(p, &st, 0);
	if (st)
		printf("prctl %d (%lx %lx %lx %lx): %s\n", option, a, b, c, d, status_text(st));
}

int main(void)
{
	for (int option = 0; option <= 80; option++) {
		/* Strict seccomp mode is its own program's subject. */
		if (option == PR_SET_SECCOMP)
			continue;
		/* Not to be had inside, but for turning it off. */
		if (option == PR_SET_SYSCALL_USER_DISPATCH) {
			one(option, 0, 0, 0, 0);
			continue;
		}
		one(option, 0, 0, 0, 0);
		one(option, 1, 0, 0, 0);
		one(option, 2, 0, 0, 0);
		one(option, 0, 1, 0, 0);
		one(option, 1, 1, 1, 1);
		one(option, -1, -1, -1, -1);
		one(option, 8, 8, 8, 8);
	}
	one(PR_SET_VMA, 0, 0, 0, 0);
	one(PR_SET_VMA, 1, 0, 0, 0);
	one(PR_SET_PTRACER, 0, 0, 0, 0);
	one(PR_SET_PTRACER, -1, 0, 0, 0);
	one(PR_SET_PTRACER, 1, 0, 0, 0);
	one(PR_SET_PTRACER, 99999999, 0, 0, 0);
	for (int code = 0x1000; code < 0x1020; code++)
		CHILD("arch_prctl", {
			/* Not the registers that this program stands on. */
			if (code == 0x1002) _exit(0);
			errno = 0;
			long r = syscall(SYS_arch_prctl, code, 8UL);
			printf("arch_prctl %x: %s\n", code, r < 0 ? name_of(errno) : "ok");
		});
	for (int code = 0x5000; code < 0x5008; code++)
		CHILD("arch_prctl", {
			errno = 0;
			long r = syscall(SYS_arch_prctl, code, 0UL);
			printf("arch_prctl %x: %s\n", code, r < 0 ? name_of(errno) : "ok");
		});
	return 0;
}
