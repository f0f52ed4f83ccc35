/* A thread that others call without end (they write to control files that it has opened, interrupt it as its tracer, send it SIGSYS
 * and SIGSTKFLT, and fill its queue of signals, so that the host has no memory for more) goes on and gets the right results. */
#include "abuse.h"
#include <pthread.h>
#include <sys/ptrace.h>

static void on(int s)
{
	(void)s;
}

int main(void)
{
	int go[2];
	if (pipe(go))
		return 2;
	pid_t opener = fork();
	if (opener == 0) {
		char c;
		struct sigaction sa = { .sa_handler = on, .sa_flags = SA_RESTART };
		setpgid(0, 0);
		sigaction(SIGSYS, &sa, NULL);
		sigaction(SIGSTKFLT, &sa, NULL);
		sigset_t blocked;
		sigemptyset(&blocked);
		for (int s = SIGRTMIN; s <= SIGRTMAX; s++)
			sigaddset(&blocked, s);
		sigprocmask(SIG_BLOCK, &blocked, NULL);
		int fd = open("/proc/self/comm", O_WRONLY);
		long self = getpid(), parent = getppid();
		for (int i = 0; i < 2; i++)
			if (fork() == 0) {
				for (;;)
					if (raw6(SYS_write, fd, (long)"x", 1, 0, 0, 0) == -EPIPE)
						_exit(0);
			}
		if (fork() == 0)
			for (int i = 0;; i++)
				raw6(SYS_tgkill, self, self, i & 1 ? SIGSYS : SIGSTKFLT, 0, 0, 0);
		if (fork() == 0)
			for (int i = 0; i < 200000; i++)
				sigqueue(self, SIGRTMIN + i % 20, (union sigval){ .sival_int = i });
		int bad = 0;
		time_t since = time(NULL);
		for (long i = 0; !bad && time(NULL) - since < 2; i++) {
			struct stat st;
			bad = raw6(SYS_getppid, 0, 0, 0, 0, 0, 0) != parent || stat("/proc/self/no-such-file", &st) != -1 || errno != ENOENT ||
			      raw6(SYS_close, -1, 0, 0, 0, 0, 0) != -EBADF;
			if (i % 50 == 0) {
				struct timespec nap = { 0, 20000 };
				/* A handler ends it; nothing else may. */
				if (nanosleep(&nap, NULL) && errno != EINTR)
					bad = 2;
				if (write(fd, "name", 4) != 4)
					bad = 3;
			}
		}
		close(go[0]);
		c = bad;
		write(go[1], &c, 1);
		_exit(bad);
	}
	close(go[1]);
	char c = 99;
	while (ptrace(PTRACE_SEIZE, opener, 0, 0))
		usleep(1000);
	int stops = 0, status = 0;
	struct pollfd pfd = { go[0], POLLIN, 0 };
	while (poll(&pfd, 1, 0) == 0) {
		ptrace(PTRACE_INTERRUPT, opener, 0, 0);
		if (waitpid(opener, &status, 0) != opener)
			break;
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			printf("BROKEN: the opener ended with status %x\n", status);
			break;
		}
		int signal = status >> 16 ? 0 : WSTOPSIG(status);
		ptrace(PTRACE_CONT, opener, 0, signal);
		stops++;
	}
	ptrace(PTRACE_INTERRUPT, opener, 0, 0);
	if (waitpid(opener, &status, 0) == opener && WIFSTOPPED(status))
		ptrace(PTRACE_DETACH, opener, 0, 0);
	if (read(go[0], &c, 1) != 1)
		c = 98;
	kill(-opener, SIGKILL);
	if (c != 0)
		printf("BROKEN: a call had a wrong result, or the thread is gone: %d\n", c);
	if (stops < 10)
		printf("BROKEN: only %d stops\n", stops);
	return c != 0 || stops < 10;
}
