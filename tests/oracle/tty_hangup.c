/* oracle: user
 * What a terminal's end does to those who use it: of its session's leader, of its master. */
#include "oracle.h"
#include <termios.h>

static volatile sig_atomic_t hup, cont;
static void on(int s)
{
	if (s == SIGHUP) hup++;
	else cont++;
}

static int master, told[2];

static char *open_terminal(void)
{
	static char name[64];
	master = M(posix_openpt(O_RDWR | O_NOCTTY));
	M(unlockpt(master));
	M(ptsname_r(master, name, sizeof name));
	return name;
}

static void look(const char *who, int fd)
{
	struct termios t;
	struct pollfd p = { fd, POLLIN | POLLOUT, 0 };
	char c;
	printf("%s: HUP %d CONT %d\n", who, (int)hup, (int)cont);
	poll(&p, 1, 0);
	printf("%s: poll %x\n", who, p.revents);
	fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	long n = read(fd, &c, 1);
	printf("%s: read %s\n", who, n == -1 ? name_of(errno) : n ? "a byte" : "end");
	n = write(fd, "x", 1);
	printf("%s: write %s\n", who, n == -1 ? name_of(errno) : "ok");
	printf("%s: tcgetattr %s\n", who, tcgetattr(fd, &t) == -1 ? name_of(errno) : "ok");
	pid_t s = -1;
	printf("%s: TIOCGSID %s\n", who, ioctl(fd, TIOCGSID, &s) == -1 ? name_of(errno) : "ok");
	int tty = open("/dev/tty", O_RDWR);
	printf("%s: /dev/tty %s\n", who, tty == -1 ? name_of(errno) : "opens");
	fflush(stdout);
}

/* A session: a leader, a foreground group, a background group. */
static pid_t session(const char *name, int leader_stays)
{
	int ready[2];
	M(pipe(ready));
	pid_t leader = fork();
	if (leader == 0) {
		signal(SIGHUP, on);
		signal(SIGCONT, on);
		signal(SIGTTOU, SIG_IGN);
		signal(SIGTTIN, SIG_IGN);
		close(master);
		M(setsid());
		int fd = M(open(name, O_RDWR));
		for (int i = 0; i < 2; i++)
			if (fork() == 0) {
				M(setpgid(0, 0));
				if (i == 0) M(tcsetpgrp(fd, getpgrp()));
				M(write(ready[1], "r", 1));
				char c;
				while (read(told[0], &c, 1) == -1)
					;
				msleep(i * 100);
				look(i == 0 ? "foreground" : "background", fd);
				_exit(0);
			}
		char c;
		M(read(ready[0], &c, 1));
		M(read(ready[0], &c, 1));
		M(write(ready[1], "l", 1));
		if (!leader_stays) {
			msleep(50);
			_exit(3);
		}
		while (read(told[0], &c, 1) == -1)
			;
		msleep(200);
		look("leader", fd);
		_exit(4);
	}
	char c = 0;
	do M(read(ready[0], &c, 1));
	while (c != 'l' && (write(ready[1], &c, 1), msleep(5), 1));
	return leader;
}

int main(void)
{
	M(pipe(told));
	char *name = open_terminal();
	pid_t leader = session(name, 0);
	reap("leader ends", leader);
	msleep(50);
	M(write(told[1], "12", 2));
	msleep(300);
	close(master);

	name = open_terminal();
	leader = session(name, 1);
	close(master);
	msleep(50);
	M(write(told[1], "123", 3));
	reap("leader of a terminal without master", leader);

	/* A terminal that is nobody's. */
	name = open_terminal();
	int slave = M(open(name, O_RDWR | O_NOCTTY));
	M(write(master, "typed\n", 6));
	close(master);
	look("nobody's", slave);
	T(open(name, O_RDWR | O_NOCTTY));
	/* And the other way. */
	name = open_terminal();
	slave = M(open(name, O_RDWR | O_NOCTTY));
	close(slave);
	struct pollfd p = { master, POLLIN, 0 };
	T(poll(&p, 1, 0));
	char c;
	T(read(master, &c, 1));
	T(vhangup());
	return 0;
}
