/* oracle: user
 * Controlling terminals: who gets one, who may hand over the foreground, what background processes meet; packet mode. */
#include "oracle.h"
#include <pty.h>
#include <termios.h>

static volatile sig_atomic_t got[65];
static void on(int s)
{
	got[s]++;
}
static int pair(int *master, char *name)
{
	int m = M(open("/dev/ptmx", O_RDWR | O_NOCTTY));
	M(grantpt(m));
	M(unlockpt(m));
	M(ptsname_r(m, name, 64));
	*master = m;
	return m;
}
#define SID(fd) ({ pid_t oracle_s = -1; int oracle_r = ioctl(fd, TIOCGSID, &oracle_s); oracle_r ? -1 : oracle_s == getsid(0); })

int main(void)
{
	int m, st;
	char name[64], b[64];
	pair(&m, name);
	CHILD("leader", {
		M(setsid());
		T(open("/dev/tty", O_RDWR));
		int s = M(open(name, O_RDWR | O_NOCTTY));
		T(ioctl(s, TIOCSPGRP, &(pid_t){ getpgrp() }));
		T(tcgetpgrp(s));
		T(SID(s));
		T(ioctl(s, TIOCSCTTY, 0));
		T(ioctl(s, TIOCSCTTY, 0));
		T(SID(s));
		printf("foreground is me %d\n", tcgetpgrp(s) == getpgrp());
		printf("seen from the master %d\n", tcgetpgrp(m) == getpgrp());
		int t = T(open("/dev/tty", O_RDWR) >= 0) ? open("/dev/tty", O_RDWR) : -1;
		T(SID(t));
		T(tcsetpgrp(s, 0x3ffffff));
		T(tcsetpgrp(s, -1));
		T(tcsetpgrp(s, getppid()));
		/* Another session cannot take it. */
		CHILD("other session", {
			M(setsid());
			T(ioctl(s, TIOCSCTTY, 0));
			T(ioctl(s, TIOCSPGRP, &(pid_t){ getpgrp() }));
			T(tcgetpgrp(s));
			T(open("/dev/tty", O_RDWR));
		});
		/* Not a leader: nor can it take another terminal. */
		CHILD("no leader", {
			int m2;
			char n2[64];
			pair(&m2, n2);
			int s2 = M(open(n2, O_RDWR | O_NOCTTY));
			T(ioctl(s2, TIOCSCTTY, 0));
			T(ioctl(s, TIOCSCTTY, 0));
		});
		/* Background: reading stops, writing only with TOSTOP, changing always. */
		pid_t k = fork();
		if (k == 0) {
			setpgid(0, 0);
			if (read(s, b, 1) < 0) _exit(1);
			_exit(0);
		}
		setpgid(k, k);
		M(waitpid(k, &st, WUNTRACED));
		printf("background read: %s\n", status_text(st));
		kill(k, SIGKILL);
		waitpid(k, NULL, 0);
		CHILD("ignores SIGTTIN", { setpgid(0, 0); signal(SIGTTIN, SIG_IGN); T(read(s, b, 1)); });
		CHILD("blocks SIGTTIN", {
			setpgid(0, 0);
			sigset_t set;
			sigemptyset(&set);
			sigaddset(&set, SIGTTIN);
			sigprocmask(SIG_BLOCK, &set, NULL);
			T(read(s, b, 1));
		});
		CHILD("background write", { setpgid(0, 0); T(write(s, "w", 1)); });
		struct termios tio;
		tcgetattr(s, &tio);
		tio.c_lflag |= TOSTOP;
		tcsetattr(s, TCSANOW, &tio);
		k = fork();
		if (k == 0) {
			setpgid(0, 0);
			_exit(write(s, "w", 1) == 1 ? 0 : 1);
		}
		setpgid(k, k);
		M(waitpid(k, &st, WUNTRACED));
		printf("with TOSTOP: %s\n", status_text(st));
		/* Made foreground and continued, it goes on. */
		T(tcsetpgrp(s, k));
		kill(k, SIGCONT);
		reap("continued", k);
		k = fork();
		if (k == 0) {
			setpgid(0, 0);
			_exit(tcsetpgrp(s, getpgrp()) ? 1 : 0);
		}
		signal(SIGTTOU, SIG_IGN);
		setpgid(k, k);
		tcsetpgrp(s, getpgrp());
		M(waitpid(k, &st, WUNTRACED));
		printf("background tcsetpgrp: %s\n", status_text(st));
		kill(k, SIGKILL);
		waitpid(k, NULL, 0);
		CHILD("ignores SIGTTOU", {
			setpgid(0, 0);
			T(tcsetpgrp(s, getpgrp()));
			printf("took it %d\n", tcgetpgrp(s) == getpgrp());
		});
		tcsetpgrp(s, getpgrp());
		/* Characters that send signals, to the foreground group only. */
		k = fork();
		if (k == 0) {
			setpgid(0, 0);
			for (;;) pause();
		}
		setpgid(k, k);
		signal(SIGINT, on);
		M(write(m, "\003", 1));
		for (int i = 0; i < 1000 && !got[SIGINT]; i++) msleep(1);
		printf("SIGINT here %d, background lives %d\n", got[SIGINT], waitpid(k, NULL, WNOHANG) == 0);
		kill(k, SIGKILL);
		waitpid(k, NULL, 0);
		/* Giving it up. */
		signal(SIGHUP, on);
		signal(SIGCONT, on);
		T(ioctl(s, TIOCNOTTY));
		for (int i = 0; i < 1000 && !got[SIGHUP]; i++) msleep(1);
		printf("HUP %d CONT %d\n", got[SIGHUP], got[SIGCONT]);
		T(open("/dev/tty", O_RDWR));
		T(ioctl(s, TIOCNOTTY));
	});
	close(m);

	/* Packet mode, and the peer by its master. */
	pair(&m, name);
	int peer = M(ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY));
	struct stat a, c;
	fstat(peer, &a);
	stat(name, &c);
	printf("peer is the slave %d\n", a.st_rdev == c.st_rdev);
	int one = 1, back = 9;
	long r;
	T(ioctl(m, TIOCPKT, &one));
	T(ioctl(m, TIOCGPKT, &back));
	printf("packet mode %d\n", back);
	M(write(peer, "hi", 2));
	r = read(m, b, 10);
	printf("%ld bytes, first %d\n", r, b[0]);
	tcflush(peer, TCIOFLUSH);
	r = read(m, b, 10);
	printf("%ld bytes, first %d\n", r, b[0]);
	T(ioctl(peer, TIOCPKT, &one));
	T(ioctl(m, TIOCSPTLCK, &one));
	T(open(name, O_RDWR | O_NOCTTY));
	one = 0;
	T(ioctl(m, TIOCSPTLCK, &one));
	T(open(name, O_RDWR | O_NOCTTY) >= 0);
	T(ioctl(peer, TIOCGPTPEER, O_RDWR));
	T(ioctl(peer, TIOCSTI, "x"));
	struct winsize w = { 11, 22, 33, 44 }, v;
	T(ioctl(peer, TIOCSWINSZ, &w));
	T(ioctl(m, TIOCGWINSZ, &v));
	printf("%d %d %d %d\n", v.ws_row, v.ws_col, v.ws_xpixel, v.ws_ypixel);
	int pi[2];
	M(pipe(pi));
	T(ioctl(pi[0], TIOCGWINSZ, &v));
	T(tcgetpgrp(pi[0]));
	close(peer);
	return 0;
}
