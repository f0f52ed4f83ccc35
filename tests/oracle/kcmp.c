/* oracle: user root
 * Which resources two processes share (kcmp(2)). */
#include "oracle.h"

int main(void)
{
	int pi[2];
	M(pipe(pi));
	int same = M(dup(pi[0]));
	pid_t p = M(fork());
	if (!p) {
		/* The child has not the descriptor that is compared, and waits. */
		close(same);
		close(pi[0]);
		pause();
		_exit(0);
	}
	msleep(50);
	T(syscall(SYS_kcmp, getpid(), getpid(), 0, same, pi[0]));
	T(syscall(SYS_kcmp, getpid(), p, 0, same, pi[0]));
	T(syscall(SYS_kcmp, getpid(), p, 0, same, 999));
	printf("different %d\n", syscall(SYS_kcmp, getpid(), getpid(), 0, pi[0], pi[1]) > 0);
	T(syscall(SYS_kcmp, getpid(), p, 99, 0, 0));
	T(syscall(SYS_kcmp, getpid(), 0x3ffffff, 0, 0, 0));
	T(syscall(SYS_kcmp, getpid(), getpid(), 1, 0, 0));
	printf("vm of a child differs %d\n", syscall(SYS_kcmp, getpid(), p, 1, 0, 0) > 0);
	printf("files of a child differ %d\n", syscall(SYS_kcmp, getpid(), p, 2, 0, 0) > 0);
	printf("fs of a child differs %d\n", syscall(SYS_kcmp, getpid(), p, 3, 0, 0) > 0);
	printf("sighand of a child differs %d\n", syscall(SYS_kcmp, getpid(), p, 4, 0, 0) > 0);
	kill(p, SIGKILL);
	M(waitpid(p, NULL, 0));
	return 0;
}
