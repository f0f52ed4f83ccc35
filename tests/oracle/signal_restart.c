/* oracle: user
 * Which calls a handler interrupts for good, and which go on with SA_RESTART. A signal arrives 60 ms after each call
 * began; 120 ms later what it waits for happens. */
#include "oracle.h"
#include <sys/epoll.h>
#include <linux/futex.h>
#include <sys/file.h>

static volatile sig_atomic_t hits;
static void hit(int s)
{
	(void)s;
	hits++;
}
static int pfd[2];
static pid_t helper;

static void start(void)
{
	hits = 0;
	M(pipe(pfd));
	pid_t parent = getpid();
	helper = fork();
	if (helper == 0) {
		msleep(60);
		kill(parent, SIGUSR1);
		msleep(120);
		if (write(pfd[1], "x", 1) != 1) _exit(1);
		_exit(0);
	}
}
static void finish(void)
{
	while (waitpid(helper, NULL, 0) == -1 && errno == EINTR)
		;
	close(pfd[0]);
	close(pfd[1]);
	printf("  handler ran %d\n", hits);
}
#define R(call)              \
	do {                 \
		start();     \
		T(call);     \
		finish();    \
	} while (0)

int main(void)
{
	char c;
	int st, word = 1;
	struct timespec half = { 0, 300000000 }, long_ = { 5, 0 };
	for (int restart = 0; restart < 2; restart++) {
		struct sigaction sa = { .sa_handler = hit, .sa_flags = restart ? SA_RESTART : 0 };
		sigaction(SIGUSR1, &sa, NULL);
		printf("SA_RESTART %d\n", restart);
		R(read(pfd[0], &c, 1));
		R(pause());
		R(nanosleep(&half, NULL));
		R(clock_nanosleep(CLOCK_MONOTONIC, 0, &half, NULL) == EINTR);
		struct pollfd p = { -1, POLLIN, 0 };
		R(poll(&p, 1, 300));
		R(ppoll(&p, 1, &half, NULL));
		R(select(0, NULL, NULL, NULL, &(struct timeval){ 0, 300000 }));
		int ep = M(epoll_create1(0));
		struct epoll_event ev;
		R(epoll_wait(ep, &ev, 1, 300));
		close(ep);
		R(waitid(P_PID, helper, NULL, WEXITED | WNOWAIT));
		R(waitpid(helper, &st, 0) == helper);
		R(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &half, NULL, 0));
		sigset_t none;
		sigemptyset(&none);
		R(sigsuspend(&none));
		sigset_t usr2;
		sigemptyset(&usr2);
		sigaddset(&usr2, SIGUSR2);
		R(sigtimedwait(&usr2, NULL, &half));
		int sv[2];
		M(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
		struct timeval tv = { 0, 400000 };
		R(recv(sv[0], &c, 1, MSG_DONTWAIT));
		setsockopt(sv[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
		R(recv(sv[0], &c, 1, 0));
		close(sv[0]);
		close(sv[1]);
		/* accept without a timeout restarts. */
		int l = M(socket(AF_UNIX, SOCK_STREAM, 0));
		struct sockaddr_un un = { .sun_family = AF_UNIX };
		snprintf(un.sun_path, sizeof un.sun_path, "sock%d", restart);
		M(bind(l, (void *)&un, sizeof un));
		M(listen(l, 1));
		pid_t conn = fork();
		if (conn == 0) {
			msleep(250);
			int s = socket(AF_UNIX, SOCK_STREAM, 0);
			connect(s, (void *)&un, sizeof un);
			msleep(50);
			_exit(0);
		}
		R(accept(l, NULL, NULL) > 0);
		while (waitpid(conn, NULL, 0) == -1)
			;
		close(l);
		/* open of a fifo and flock are names and handles that block. */
		char fifo[16];
		snprintf(fifo, sizeof fifo, "fifo%d", restart);
		M(mkfifo(fifo, 0600));
		pid_t w = fork();
		if (w == 0) {
			msleep(250);
			int f = open(fifo, O_WRONLY);
			msleep(20);
			_exit(f < 0);
		}
		int fifofd;
		start();
		fifofd = open(fifo, O_RDONLY);
		printf("open fifo: %s\n", fifofd < 0 ? name_of(errno) : "open");
		finish();
		if (fifofd < 0) fifofd = open(fifo, O_RDONLY);
		while (waitpid(w, NULL, 0) == -1)
			;
		close(fifofd);
		int lockfd = M(open("lock", O_CREAT | O_RDWR, 0600));
		int go[2];
		M(pipe(go));
		pid_t holder = fork();
		if (holder == 0) {
			int f = open("lock", O_RDWR);
			flock(f, LOCK_EX);
			if (write(go[1], "g", 1) != 1) _exit(1);
			msleep(300);
			_exit(0);
		}
		M(read(go[0], &c, 1));
		R(flock(lockfd, LOCK_EX));
		while (waitpid(holder, NULL, 0) == -1)
			;
		close(lockfd);
		close(go[0]);
		close(go[1]);
		/* A child's end ends a wait that was restarted. */
		struct timespec rem = { 0, 0 };
		start();
		int r = nanosleep(&long_, &rem);
		printf("nanosleep left more than 4 s: %d %s\n", r == -1 && rem.tv_sec == 4, name_of(errno));
		finish();
	}
	return 0;
}
