/* oracle: user
 * wait4 and waitid with every flag, by pid, by group, and where nobody is left. */
#include "oracle.h"

static const char *code(int c)
{
	switch (c) {
	case CLD_EXITED: return "EXITED";
	case CLD_KILLED: return "KILLED";
	case CLD_DUMPED: return "DUMPED";
	case CLD_STOPPED: return "STOPPED";
	case CLD_CONTINUED: return "CONTINUED";
	default: return "?";
	}
}

static pid_t child(int ms, int ret)
{
	pid_t p = fork();
	if (p == 0) {
		msleep(ms);
		_exit(ret);
	}
	return p;
}

static void wid(const char *what, idtype_t t, id_t id, int opts, pid_t expect)
{
	siginfo_t si;
	memset(&si, 0, sizeof si);
	if (waitid(t, id, &si, opts) == -1) {
		printf("%s: %s\n", what, name_of(errno));
		return;
	}
	if (si.si_pid == 0) {
		printf("%s: nothing yet, signo %d\n", what, si.si_signo);
		return;
	}
	printf("%s: signo %s code %s status %d pid %s uid %s\n", what, sigabbrev_np(si.si_signo), code(si.si_code),
	       si.si_status, si.si_pid == expect ? "right" : "wrong", si.si_uid == getuid() ? "mine" : "other");
}

int main(void)
{
	int st;
	struct rusage ru;
	T(wait(NULL));
	T(waitpid(-1, NULL, WNOHANG));
	T(waitpid(getpid(), NULL, 0));
	T(waitpid(1, NULL, 0));
	T(waitpid(-getpid(), NULL, 0));
	T(waitpid(-1, NULL, 0x10000));
	T(waitid(P_ALL, 0, NULL, 0));
	T(waitid(P_ALL, 0, NULL, WEXITED));
	T(waitid(P_PID, 0, NULL, WEXITED));
	T(waitid(77, 0, NULL, WEXITED));

	pid_t p = child(100, 3);
	T(waitpid(p, &st, WNOHANG));
	wid("nohang", P_PID, p, WEXITED | WNOHANG, p);
	wid("nowait", P_PID, p, WEXITED | WNOWAIT, p);
	wid("nowait again", P_ALL, 0, WEXITED | WNOWAIT, p);
	wid("reap", P_PID, p, WEXITED, p);
	wid("gone", P_PID, p, WEXITED, p);

	p = child(0, 300);
	pid_t w = wait4(p, &st, 0, &ru);
	printf("wait4: %s, rusage %s\n", w == p ? status_text(st) : name_of(errno), ru.ru_maxrss > 0 ? "filled" : "empty");

	p = fork();
	if (p == 0)
		for (;;) pause();
	T(kill(p, SIGSTOP));
	wid("stopped", P_PID, p, WSTOPPED, p);
	T(waitpid(p, &st, WNOHANG | WUNTRACED));
	T(kill(p, SIGCONT));
	wid("continued", P_PID, p, WCONTINUED, p);
	T(kill(p, SIGSTOP));
	printf("WUNTRACED: %s\n", waitpid(p, &st, WUNTRACED) == p ? status_text(st) : name_of(errno));
	T(kill(p, SIGCONT));
	printf("WCONTINUED: %s\n", waitpid(p, &st, WCONTINUED) == p ? status_text(st) : name_of(errno));
	T(kill(p, SIGKILL));
	wid("killed", P_PID, p, WEXITED, p);

	p = fork();
	if (p == 0) {
		setpgid(0, 0);
		struct rlimit none = { 0, 0 };
		setrlimit(RLIMIT_CORE, &none);
		abort();
	}
	setpgid(p, p);
	T(waitpid(-getpgrp() - 100000, &st, 0));
	wid("by group", P_PGID, p, WEXITED | WNOWAIT, p);
	printf("by -pgid: %s\n", waitpid(-p, &st, 0) == p ? status_text(st) : name_of(errno));

	pid_t same = child(0, 1);
	printf("pid 0 is own group: %s\n", waitpid(0, &st, 0) == same ? "yes" : "no");

	/* Order: waiting for a given pid leaves the others alone. */
	pid_t a = child(0, 1), b = child(0, 2), c = child(0, 3);
	msleep(50);
	reap("c", c);
	reap("a", a);
	reap("b", b);

	/* SIGCHLD ignored: no zombies, wait blocks until all are gone and then says ECHILD. */
	signal(SIGCHLD, SIG_IGN);
	child(50, 1);
	child(80, 1);
	T(wait(&st));
	struct sigaction sa = { .sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT };
	sigaction(SIGCHLD, &sa, NULL);
	child(50, 1);
	T(wait(&st));
	signal(SIGCHLD, SIG_DFL);

	/* pidfd as waitid knows it. */
	p = child(30, 4);
	int fd = M(syscall(SYS_pidfd_open, p, 0));
	struct pollfd pf = { fd, POLLIN, 0 };
	T(poll(&pf, 1, 5000));
	wid("pidfd", P_PIDFD, fd, WEXITED, p);
	T(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
	T(syscall(SYS_pidfd_open, p, 0));
	T(syscall(SYS_pidfd_open, 0, 0));
	close(fd);

	/* The parent of an orphan changes. */
	int pi[2];
	M(pipe(pi));
	p = fork();
	if (p == 0) {
		pid_t me = getpid();
		if (fork() == 0) {
			while (getppid() == me) msleep(1);
			if (write(pi[1], "o", 1) != 1) _exit(1);
			_exit(0);
		}
		_exit(0);
	}
	reap("middle", p);
	char ch = 0;
	close(pi[1]);
	if (read(pi[0], &ch, 1) == 1) printf("orphan was adopted\n");
	/* Wait in one thread group for a child killed while we wait. */
	p = fork();
	if (p == 0)
		for (;;) pause();
	if (fork() == 0) {
		msleep(50);
		kill(p, SIGUSR2);
		_exit(0);
	}
	reap("killed while waited for", p);
	wait(NULL);
	return 0;
}
