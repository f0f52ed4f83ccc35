/* oracle: user
 * Signals read from a descriptor: by this process and its children, from copies of the descriptor, after an exec, while polling. */
#include "oracle.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/uio.h>

static pid_t child;

static void show(const char *what, long got, const struct signalfd_siginfo *fi)
{
	if (got != sizeof *fi) {
		printf("%s: %ld %s\n", what, got, got < 0 ? name_of(errno) : "");
		return;
	}
	printf("%s: %s code %d pid %s uid %s status %d int %d\n", what, sigabbrev_np(fi->ssi_signo), fi->ssi_code,
	       fi->ssi_pid == (uint32_t)getpid() ? "mine" : fi->ssi_pid == (uint32_t)getppid() ? "parent" : fi->ssi_pid == (uint32_t)child ? "child" : "other",
	       fi->ssi_uid == getuid() ? "mine" : "other", fi->ssi_status, fi->ssi_int);
}

static void take(const char *what, int fd)
{
	struct signalfd_siginfo fi = { 0 };
	long got = read(fd, &fi, sizeof fi);
	show(what, got, &fi);
}

static void *other_thread(void *arg)
{
	raise(SIGUSR2);
	take("in a thread", *(int *)arg);
	return NULL;
}

/* A process that gets the descriptor by a message, and has not inherited it. */
static void by_message(int from)
{
	char c, control[CMSG_SPACE(3 * sizeof(int))];
	struct iovec iov = { &c, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	M(recvmsg(from, &m, 0));
	int fds[3];
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fds);
	raise(SIGUSR1);
	take("by message", fds[1]);
	sigqueue(getppid(), SIGRTMIN, (union sigval){ .sival_int = 5 });
	kill(getpid(), SIGUSR2);
	take("its copy", dup(fds[1]));
	close(fds[2]);
	M(write(fds[0], "x", 1));
	_exit(0);
}

static void send_fds(int to, int a, int b, int c)
{
	char byte = 'm', control[CMSG_SPACE(3 * sizeof(int))] = { 0 };
	int fds[3] = { a, b, c };
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	*CMSG_FIRSTHDR(&m) = (struct cmsghdr){ CMSG_LEN(sizeof fds), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, sizeof fds);
	M(sendmsg(to, &m, 0));
}

int main(int argc, char **argv)
{
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGUSR1);
	sigaddset(&m, SIGUSR2);
	sigaddset(&m, SIGCHLD);
	sigaddset(&m, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &m, NULL);
	if (argc > 1) {
		int fd = atoi(argv[1]);
		kill(getpid(), SIGUSR1);
		take("after exec", fd);
		take("nothing more", fd);
		return 0;
	}
	int sv[2][2];
	pid_t getters[2];
	for (int i = 0; i < 2; i++) {
		M(socketpair(AF_UNIX, i ? SOCK_DGRAM : SOCK_STREAM, 0, sv[i]));
		getters[i] = fork();
		if (getters[i] == 0) by_message(sv[i][1]);
	}
	int fd = T(signalfd(-1, &m, SFD_NONBLOCK | SFD_CLOEXEC));
	take("nothing", fd);
	kill(getpid(), SIGUSR1);
	take("kill", fd);
	raise(SIGUSR1);
	take("raise", fd);
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 77 });
	take("queue", fd);
	child = fork();
	if (child == 0) _exit(3);
	struct pollfd pf = { fd, POLLIN, 0 };
	T(poll(&pf, 1, 2000));
	take("exit", fd);
	reap("child", child);
	child = fork();
	if (child == 0) {
		raise(SIGKILL);
		_exit(3);
	}
	T(poll(&pf, 1, 2000));
	take("killed", fd);
	reap("child", child);
	struct signalfd_siginfo many[4];
	T(read(fd, many, 8));

	/* Several at once, and into pieces. */
	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGUSR2);
	long got = T(read(fd, many, sizeof many));
	for (int i = 0; i < got / (long)sizeof *many; i++) show("of many", sizeof *many, &many[i]);
	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGUSR2);
	struct iovec iov[2] = { { &many[2], sizeof *many }, { &many[0], sizeof *many } };
	got = T(readv(fd, iov, 2));
	show("first", sizeof *many, &many[2]);
	show("second", sizeof *many, &many[0]);

	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGUSR2);
	char *bytes = (char *)many;
	struct iovec pieces[5] = { { bytes, 3 }, { bytes + 3, 13 }, { NULL, 0 }, { bytes + 16, 130 }, { bytes + 146, 400 } };
	got = T(readv(fd, pieces, 5));
	show("first in pieces", sizeof *many, &many[0]);
	show("second in pieces", sizeof *many, &many[1]);

	/* By a message, to a process that has blocked the signals, too. */
	for (int i = 0; i < 2; i++) {
		int pipes[2];
		char c;
		M(pipe(pipes));
		send_fds(sv[i][0], pipes[1], fd, pipes[0]);
		M(read(pipes[0], &c, 1));
		child = getters[i];
		reap("child", child);
		take("its end", fd);
		take("queued by a child", fd);
		close(pipes[0]);
		close(pipes[1]);
	}

	/* Copies, and the number used for something else. */
	int copy = dup(fd), high = fcntl(fd, F_DUPFD, 40), two = dup2(fd, 50);
	for (int i = 0; i < 3; i++) {
		int which[] = { copy, high, two };
		raise(SIGUSR1);
		take("copy", which[i]);
	}
	int again = dup(copy);
	raise(SIGUSR1);
	take("copy of a copy", again);
	int pipes[2];
	close(copy);
	M(pipe(pipes));
	printf("the number is the pipe's: %d\n", pipes[0] == copy);
	memset(many, 1, sizeof many);
	M(write(pipes[1], many, sizeof many));
	memset(many, 0, sizeof many);
	got = T(read(pipes[0], many, sizeof many));
	printf("unchanged %d\n", many[0].ssi_code == 0x01010101 && many[3].ssi_pid == 0x01010101);

	/* A wait in epoll, and a read that waits. */
	int ep = M(epoll_create1(0));
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };
	M(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
	child = fork();
	if (child == 0) {
		msleep(50);
		kill(getppid(), SIGUSR1);
		msleep(100);
		kill(getppid(), SIGUSR2);
		_exit(0);
	}
	T(epoll_wait(ep, &ev, 1, 2000));
	take("from a child", fd);
	int waits = M(signalfd(-1, &m, 0));
	take("after a wait", waits);
	T(poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 2000));
	take("its end", waits);
	reap("child", child);

	/* In a thread, in a child, after an exec. */
	pthread_t t;
	pthread_create(&t, NULL, other_thread, &waits);
	pthread_join(t, NULL);
	child = fork();
	if (child == 0) {
		raise(SIGUSR2);
		take("in a child", waits);
		kill(getppid(), SIGUSR1);
		_exit(0);
	}
	reap("child", child);
	take("of its parent", waits);
	take("its end", waits);
	fflush(stdout);
	child = fork();
	if (child == 0) {
		int kept = fcntl(fd, F_DUPFD, 60);
		char number[16];
		snprintf(number, sizeof number, "%d", kept);
		execl("/proc/self/exe", "signalfd", number, NULL);
		_exit(9);
	}
	reap("exec", child);
	return 0;
}
