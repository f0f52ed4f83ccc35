/* oracle: user
 * A pty pair: echo, line discipline, window size, hangup, and job control in a session of its own. */
#include "oracle.h"
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

static volatile sig_atomic_t wins, hups;
static void on(int s)
{
	if (s == SIGWINCH) wins++;
	if (s == SIGHUP) hups++;
}
static long get(int fd, char *b, long n)
{
	struct pollfd p = { fd, POLLIN, 0 };
	if (poll(&p, 1, 2000) <= 0) return -2;
	long r = read(fd, b, n);
	if (r >= 0) b[r] = 0;
	return r;
}
static void show(const char *what, char *b, long r)
{
	printf("%s: ", what);
	if (r < 0) printf("%s\n", r == -2 ? "nothing" : name_of(errno));
	else {
		for (long i = 0; i < r; i++)
			if (b[i] < 32) printf("\\x%02x", b[i]);
			else putchar(b[i]);
		printf("\n");
	}
}

int main(void)
{
	char b[256], name[64];
	int m = M(open("/dev/ptmx", O_RDWR | O_NOCTTY));
	T(grantpt(m));
	T(unlockpt(m));
	M(ptsname_r(m, name, sizeof name));
	printf("in /dev/pts: %d\n", !strncmp(name, "/dev/pts/", 9));
	int s = M(open(name, O_RDWR | O_NOCTTY));
	struct stat st;
	M(fstat(s, &st));
	/* Group permission is a mount option of devpts, which distributions and this host may have differently. */
	printf("char %d mode %o owner me %d\n", S_ISCHR(st.st_mode), st.st_mode & 07707, st.st_uid == getuid());
	T(isatty(s));
	T(isatty(m));
	printf("ttyname agrees %d\n", ttyname(s) && !strcmp(ttyname(s), name));
	struct termios t;
	T(tcgetattr(s, &t));
	printf("echo %d canonical %d\n", !!(t.c_lflag & ECHO), !!(t.c_lflag & ICANON));
	M(write(m, "typed\n", 6));
	show("line", b, get(s, b, 100));
	show("echo", b, get(m, b, 100));
	M(write(s, "out\n", 4));
	show("output", b, get(m, b, 100));
	cfmakeraw(&t);
	T(tcsetattr(s, TCSANOW, &t));
	M(write(m, "ab\r", 3));
	show("raw", b, get(s, b, 100));
	struct winsize w = { 33, 77, 0, 0 }, w2;
	T(ioctl(m, TIOCSWINSZ, &w));
	T(ioctl(s, TIOCGWINSZ, &w2));
	printf("%d rows %d columns\n", w2.ws_row, w2.ws_col);
	T(tcgetpgrp(s));
	T(tcsetpgrp(s, getpgrp()));
	close(s);
	show("master after close", b, get(m, b, 100));
	close(m);

	/* Job control: a session on a pty, interrupts from typed characters, stop and continue. */
	int master;
	pid_t c = forkpty(&master, NULL, NULL, &w);
	if (c == 0) {
		signal(SIGWINCH, on);
		printf("leader %d foreground %d tty %d\n", getsid(0) == getpid(), tcgetpgrp(0) == getpid(), open("/dev/tty", O_RDWR) >= 0);
		pid_t k = fork();
		if (k == 0) {
			setpgid(0, 0);
			for (;;) pause();
		}
		setpgid(k, k);
		signal(SIGTTOU, SIG_IGN);
		printf("tcsetpgrp %d\n", tcsetpgrp(0, k));
		printf("ready\n");
		int st2;
		waitpid(k, &st2, WUNTRACED);
		printf("1 %s\n", status_text(st2));
		kill(-k, SIGCONT);
		printf("again\n");
		waitpid(k, &st2, WUNTRACED);
		printf("2 %s\n", status_text(st2));
		tcsetpgrp(0, getpgrp());
		k = fork();
		if (k == 0) {
			setpgid(0, 0);
			char ch;
			signal(SIGTTIN, SIG_DFL);
			if (read(0, &ch, 1) < 0) _exit(1);
			_exit(0);
		}
		waitpid(k, &st2, WUNTRACED);
		printf("3 %s\n", status_text(st2));
		kill(k, SIGKILL);
		waitpid(k, &st2, 0);
		printf("resize\n");
		while (!wins) msleep(5);
		struct winsize w3;
		ioctl(0, TIOCGWINSZ, &w3);
		printf("4 %d %d\n", w3.ws_row, w3.ws_col);
		_exit(5);
	}
	char all[4096] = "";
	size_t len = 0;
	int sent = 0;
	for (;;) {
		long r = get(master, b, 200);
		if (r <= 0) break;
		memcpy(all + len, b, r);
		len += r;
		all[len] = 0;
		if (sent == 0 && strstr(all, "ready")) { msleep(50); M(write(master, "\032", 1)); sent = 1; }
		if (sent == 1 && strstr(all, "again")) { msleep(50); M(write(master, "\003", 1)); sent = 2; }
		if (sent == 2 && strstr(all, "resize")) { w.ws_row = 10; w.ws_col = 20; ioctl(master, TIOCSWINSZ, &w); sent = 3; }
	}
	for (char *p = all; *p; p++)
		if (*p != '\r') putchar(*p);
	reap("session", c);
	close(master);

	/* Hangup: when the master closes, the session's leader and foreground group hear of it. */
	int sync[2];
	M(pipe(sync));
	c = forkpty(&master, NULL, NULL, NULL);
	if (c == 0) {
		signal(SIGHUP, on);
		if (write(sync[1], "r", 1) != 1) _exit(9);
		while (!hups) pause();
		long r = read(0, b, 1);
		_exit(r == 0 ? 1 : errno == EIO ? 2 : 3);
	}
	M(read(sync[0], b, 1));
	close(master);
	reap("hung up", c);
	/* Without a terminal /dev/tty cannot be opened. */
	CHILD("no tty", { setsid(); T(open("/dev/tty", O_RDWR)); });
	return 0;
}
