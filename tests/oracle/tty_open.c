/* oracle: user
 * A session leader without a terminal gets the one it opens, unless it says O_NOCTTY (tty_open_proc_set_tty()). */
#include "oracle.h"
#include <pthread.h>

static char name[64];

static void whose(const char *what, int fd)
{
	pid_t session = -1;
	int r = ioctl(fd, TIOCGSID, &session);
	printf("%s: %s\n", what, r == -1 ? name_of(errno) : session == getsid(0) ? "this session's" : "another session's");
	int tty = open("/dev/tty", O_RDWR);
	printf("%s: /dev/tty %s\n", what, tty == -1 ? name_of(errno) : "opens");
	if (tty >= 0) close(tty);
}

static void opened(const char *what, int flags)
{
	int s = M(open(name, flags));
	whose(what, s);
	close(s);
}

static void *in_thread(void *arg)
{
	(void)arg;
	opened("by a thread of the leader", O_RDWR);
	return NULL;
}

int main(void)
{
	char again[64];
	int m = M(open("/dev/ptmx", O_RDWR | O_NOCTTY));
	M(grantpt(m));
	M(unlockpt(m));
	M(ptsname_r(m, name, sizeof name));
	/* Kept open, or each close would hang it up. */
	int kept = M(open(name, O_RDWR | O_NOCTTY));
	CHILD("leader", {
		M(setsid());
		signal(SIGHUP, SIG_IGN);
		opened("O_NOCTTY", O_RDWR | O_NOCTTY);
		opened("O_WRONLY", O_WRONLY);
		opened("O_PATH", O_PATH);
		opened("O_RDONLY", O_RDONLY);
		T(ioctl(kept, TIOCSCTTY, 0));
		T(ioctl(kept, TIOCNOTTY));
		whose("given up", kept);
		opened("O_RDWR", O_RDWR);
		pid_t pgrp = -1;
		T(ioctl(kept, TIOCGPGRP, &pgrp));
		printf("the foreground is the leader's: %d\n", pgrp == getpgrp());
	});
	whose("nobody's after the leader's end", kept);
	CHILD("who leads no session", { opened("no leader", O_RDWR); });
	CHILD("child of a leader", {
		M(setsid());
		CHILD("child", { opened("child", O_RDWR); });
		pthread_t t;
		pthread_create(&t, NULL, in_thread, NULL);
		pthread_join(t, NULL);
	});
	CHILD("second terminal", {
		M(setsid());
		opened("first", O_RDWR);
		int m2 = M(posix_openpt(O_RDWR));
		M(unlockpt(m2));
		M(ptsname_r(m2, again, sizeof again));
		int s2 = M(open(again, O_RDWR));
		whose("of the second", s2);
		CHILD("another session", {
			M(setsid());
			opened("taken", O_RDWR);
			T(ioctl(kept, TIOCSCTTY, 0));
			whose("free", M(open(again, O_RDWR)));
		});
	});
	CHILD("by its master", {
		M(setsid());
		whose("TIOCGPTPEER O_NOCTTY", M(ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY)));
		whose("TIOCGPTPEER", M(ioctl(m, TIOCGPTPEER, O_RDWR)));
	});
	CHILD("by a descriptor", {
		M(setsid());
		snprintf(again, sizeof again, "/proc/self/fd/%d", kept);
		int s = M(open(again, O_RDWR));
		whose("/proc/self/fd", s);
	});
	return 0;
}
