/* oracle: user
 * Process groups and sessions: who may be moved where. */
#include "oracle.h"

int main(void)
{
	int p[2];
	char c;
	CHILD("session", {
		T(setsid() == getpid());
		T(setsid());
		T(getsid(0) == getpid());
		T(getpgrp() == getpid());
		T(setpgid(0, 0));
		T(setpgid(0, getppid()));
		M(pipe(p));
		pid_t k = fork();
		if (k == 0) {
			T(getsid(0) == getppid());
			T(getpgid(0) == getppid());
			T(setpgid(0, 0));
			T(getpgrp() == getpid());
			if (write(p[1], "x", 1) != 1) _exit(1);
			for (;;) pause();
		}
		M(read(p[0], &c, 1));
		T(getpgid(k) == k);
		T(getsid(k) == getpid());
		pid_t k2 = fork();
		if (k2 == 0)
			for (;;) pause();
		T(setpgid(k2, k));
		T(getpgid(k2) == k);
		T(setpgid(k2, 0x3ffffff));
		T(setpgid(k2, -1));
		T(setpgid(0x3ffffff, 0));
		T(getpgid(0x3ffffff));
		T(getsid(0x3ffffff));
		T(kill(-k, SIGTERM));
		reap("k", k);
		reap("k2", k2);
		pid_t e = fork();
		if (e == 0) {
			execl("/bin/sleep", "sleep", "10", NULL);
			_exit(1);
		}
		msleep(100);
		T(setpgid(e, e));
		pid_t s = fork();
		if (s == 0) {
			setsid();
			if (write(p[1], "x", 1) != 1) _exit(1);
			for (;;) pause();
		}
		M(read(p[0], &c, 1));
		T(setpgid(s, getpid()));
		T(getsid(s) == s);
		kill(e, SIGKILL);
		kill(s, SIGKILL);
		while (wait(NULL) > 0)
			;
	});
	/* An orphaned stopped group gets HUP and CONT. In a session of its own, so that whoever adopts the orphan is not
	 * in it: otherwise the group would not count as orphaned. */
	M(pipe(p));
	CHILD("leader", {
		setsid();
		pid_t mid = fork();
		if (mid == 0) {
			setpgid(0, 0);
			pid_t k = fork();
			if (k == 0) {
				signal(SIGPIPE, SIG_IGN);
				raise(SIGSTOP);
				if (write(p[1], "c", 1) != 1) _exit(1);
				_exit(0);
			}
			int st;
			waitpid(k, &st, WUNTRACED);
			printf("grandchild %s\n", status_text(st));
			_exit(0);
		}
		reap("middle", mid);
	});
	close(p[1]);
	/* Killed by SIGHUP before it could write: the pipe ends without a byte. */
	T(read(p[0], &c, 1));
	return 0;
}
