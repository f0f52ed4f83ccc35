/* oracle: user
 * Signals read from a descriptor. */
#include "oracle.h"
#include <sys/signalfd.h>

int main(void)
{
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGUSR1);
	sigaddset(&m, SIGCHLD);
	sigprocmask(SIG_BLOCK, &m, NULL);
	int fd = T(signalfd(-1, &m, SFD_NONBLOCK | SFD_CLOEXEC));
	struct signalfd_siginfo fi;
	T(read(fd, &fi, sizeof fi));
	kill(getpid(), SIGUSR1);
	T(read(fd, &fi, sizeof fi));
	printf("signalfd: %s code %d pid %s uid %s\n", sigabbrev_np(fi.ssi_signo), fi.ssi_code,
	       fi.ssi_pid == (uint32_t)getpid() ? "mine" : "other", fi.ssi_uid == getuid() ? "mine" : "other");
	pid_t p = fork();
	if (p == 0) _exit(3);
	struct pollfd pf = { fd, POLLIN, 0 };
	T(poll(&pf, 1, 2000));
	T(read(fd, &fi, sizeof fi));
	printf("signalfd: %s status %d pid %s\n", sigabbrev_np(fi.ssi_signo), fi.ssi_status,
	       fi.ssi_pid == (uint32_t)p ? "child" : "other");
	reap("child", p);
	T(read(fd, &fi, 8));
	close(fd);
	return 0;
}
