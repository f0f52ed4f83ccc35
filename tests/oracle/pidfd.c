/* oracle: user root
 * Pidfds: made in every way, polled, waited for, signalled through, read about, and as a way to another's descriptors. */
#include "oracle.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <linux/sched.h>

#define PIDFD_NONBLOCK_ O_NONBLOCK
#define PIDFD_THREAD_ O_EXCL

struct info {
	uint64_t mask, cgroupid;
	uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
	int32_t exit_code;
	uint32_t coredump_mask, coredump_signal;
};
#define GET_INFO(size) _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, size)

static int popen_(pid_t p, unsigned f)
{
	return syscall(SYS_pidfd_open, p, f);
}
static int psend(int fd, int s, siginfo_t *si, unsigned f)
{
	return syscall(SYS_pidfd_send_signal, fd, s, si, f);
}
static int pget(int fd, int other, unsigned f)
{
	return syscall(SYS_pidfd_getfd, fd, other, f);
}

static pid_t sleeper(void)
{
	pid_t p = fork();
	if (p == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) pause();
	}
	return p;
}

static void fdinfo(int fd, pid_t p)
{
	char path[64], line[256];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	FILE *f = fopen(path, "r");
	if (!f) {
		printf("fdinfo: %s\n", name_of(errno));
		return;
	}
	while (fgets(line, sizeof line, f)) {
		int v;
		if (sscanf(line, "Pid: %d", &v) == 1) printf("Pid: %s\n", v == p ? "right" : v == -1 ? "-1" : "other");
		else if (sscanf(line, "NSpid: %d", &v) == 1) printf("NSpid: %s\n", v == p ? "right" : v == -1 ? "-1" : "other");
		else if (!strncmp(line, "flags:", 6)) printf("%s", line);
		else if (!strncmp(line, "pos:", 4)) printf("%s", line);
	}
	fclose(f);
}

static void link_of(int fd)
{
	char path[64], to[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	long n = readlink(path, to, sizeof to - 1);
	if (n < 0) printf("link: %s\n", name_of(errno));
	else {
		to[n] = 0;
		printf("link: %s\n", to);
	}
}

static pid_t thread_tid;
static int go[2];
static void *thread(void *a)
{
	thread_tid = gettid();
	M(write(((int *)a)[1], "t", 1));
	char c;
	M(read(go[0], &c, 1));
	return NULL;
}

static volatile sig_atomic_t got, code, spid;
static void on(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	code = si->si_code;
	spid = si->si_pid;
	got++;
}

int main(void)
{
	siginfo_t si;
	struct pollfd pf;
	pid_t p = sleeper();
	T(popen_(0, 0));
	T(popen_(-1, 0));
	T(popen_(0x3ffffff, 0));
	T(popen_(p, 1));
	int fd = M(popen_(p, 0));
	printf("cloexec %d, flags %x\n", fcntl(fd, F_GETFD), fcntl(fd, F_GETFL) & ~02);
	fdinfo(fd, p);
	link_of(fd);
	struct stat st, st2;
	M(fstat(fd, &st));
	int fd2 = M(popen_(p, PIDFD_NONBLOCK_));
	M(fstat(fd2, &st2));
	printf("same inode %d, mode %o\n", st.st_ino == st2.st_ino, st.st_mode & S_IFMT);
	printf("nonblock flags %x\n", fcntl(fd2, F_GETFL) & ~02);
	T(waitid(P_PIDFD, fd2, &si, WEXITED));
	T(waitid(P_PIDFD, fd2, &si, WEXITED | WNOHANG));
	T(waitid(P_PIDFD, fd, &si, WEXITED | WNOHANG));
	T(waitid(P_PIDFD, -1, &si, WEXITED));
	T(waitid(P_PIDFD, 0, &si, WEXITED));
	T(waitid(P_PIDFD, 999, &si, WEXITED));
	char b[8];
	T(read(fd, b, 8));
	T(write(fd, b, 8));
	T(lseek(fd, 0, SEEK_SET));
	pf = (struct pollfd){ fd, POLLIN, 0 };
	T(poll(&pf, 1, 0));

	/* Signals through it. */
	struct sigaction sa = { .sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGUSR1, &sa, NULL);
	int self = M(popen_(getpid(), 0));
	T(psend(self, SIGUSR1, NULL, 0));
	printf("got %d code %d mine %d\n", got, code, spid == getpid());
	memset(&si, 0, sizeof si);
	si.si_signo = SIGUSR1;
	si.si_code = SI_QUEUE;
	si.si_pid = 4242;
	T(psend(self, SIGUSR1, &si, 0));
	printf("got %d code %d pid %d\n", got, code, spid);
	si.si_code = SI_USER;
	T(psend(self, SIGUSR1, &si, 0));
	printf("got %d code %d\n", got, code);
	T(psend(fd, 0, &si, 0));
	si.si_signo = 0;
	T(psend(fd, 0, &si, 0));
	si.si_signo = SIGUSR2;
	T(psend(self, SIGUSR1, &si, 0));
	T(psend(self, SIGUSR1, NULL, 8));
	T(psend(self, 65, NULL, 0));
	T(psend(self, -1, NULL, 0));
	T(psend(0, 0, NULL, 0));
	T(psend(999, 0, NULL, 0));
	T(psend(fd, 0, NULL, 0));
	T(psend(fd, 0, (void *)8, 0));
	T(psend(self, SIGUSR1, NULL, 1));
	printf("to the thread: got %d code %d\n", got, code);
	T(psend(self, SIGUSR1, NULL, 2));
	printf("to the process: got %d code %d\n", got, code);
	T(psend(self, 0, NULL, 4));
	T(psend(self, SIGUSR1, NULL, 3));
	/* A directory of proc does, too. */
	char path[64];
	snprintf(path, sizeof path, "/proc/%d", p);
	int dir = M(open(path, O_DIRECTORY | O_RDONLY));
	T(psend(dir, 0, NULL, 0));
	T(waitid(P_PIDFD, dir, &si, WEXITED | WNOHANG));
	close(dir);

	/* Threads. */
	int pi[2];
	pthread_t th;
	M(pipe(pi));
	M(pipe(go));
	pthread_create(&th, NULL, thread, pi);
	M(read(pi[0], b, 1));
	T(popen_(thread_tid, 0));
	int tfd = OK(popen_(thread_tid, PIDFD_THREAD_));
	printf("thread flags %x\n", fcntl(tfd, F_GETFL) & ~02);
	int lfd = M(popen_(getpid(), PIDFD_THREAD_));
	pf = (struct pollfd){ tfd, POLLIN, 0 };
	T(poll(&pf, 1, 0));
	got = 0;
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGUSR1);
	T(psend(tfd, SIGUSR1, NULL, 0));
	msleep(20);
	printf("in the thread: %d code %d\n", got, code);
	M(write(go[1], "x", 1));
	pthread_join(th, NULL);
	T(poll(&pf, 1, 1000));
	printf("revents %x\n", pf.revents);
	T(psend(tfd, 0, NULL, 0));
	close(tfd);
	close(lfd);

	/* Another's descriptors. */
	T(pget(fd, 999, 0));
	T(pget(fd, 1, 1));
	T(pget(fd, -1, 0));
	T(pget(0, 0, 0));
	pid_t later = sleeper();
	int lpfd = M(popen_(later, 0));
	int one = M(pget(lpfd, pi[1], 0));
	printf("cloexec %d\n", fcntl(one, F_GETFD));
	M(write(one, "via", 3));
	T(read(pi[0], b, 8));
	kill(later, SIGKILL);
	reap("later", later);
	T(pget(lpfd, pi[1], 0));
	close(lpfd);
	int same = M(pget(self, pi[0], 0));
	close(same);

	/* What it tells of itself. */
	struct info in;
	memset(&in, 0, sizeof in);
	in.mask = 7;
	T(ioctl(fd, GET_INFO(64), &in));
	printf("mask %llx pid %d tgid %d ppid %d ids %d %d\n", (unsigned long long)in.mask & 7, in.pid == (uint32_t)p,
	       in.tgid == (uint32_t)p, in.ppid == (uint32_t)getpid(), in.ruid == getuid(), in.fsgid == getgid());
	T(ioctl(fd, GET_INFO(64), NULL));
	T(ioctl(fd, GET_INFO(8), &in));
	in.mask = 0;
	T(ioctl(fd, GET_INFO(64), &in));
	printf("mask 0 gives %llx\n", (unsigned long long)in.mask & 3);
	for (int i = 1; i <= 10; i++) {
		int n = ioctl(fd, _IO(0xFF, i), 0);
		printf("namespace %d: %s", i, n < 0 ? name_of(errno) : "ok ");
		if (n >= 0) {
			char of[64], a[64];
			snprintf(of, sizeof of, "/proc/self/fd/%d", n);
			long l = readlink(of, a, sizeof a - 1);
			a[l < 0 ? 0 : l] = 0;
			char *col = strchr(a, ':');
			if (col) *col = 0;
			printf("%s", a);
			close(n);
		}
		printf("\n");
	}
	T(ioctl(fd, _IO(0xFF, 1), 5));
	T(ioctl(fd, _IO(0xFF, 99), 0));
	T(ioctl(fd, TCGETS, &in));

	/* Its end: poll and epoll tell, then it is a zombie, then gone. */
	int ep = M(epoll_create1(0));
	struct epoll_event ev = { .events = EPOLLIN, .data.u32 = 7 };
	T(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
	T(epoll_wait(ep, &ev, 1, 0));
	T(psend(fd, SIGTERM, NULL, 0));
	T(epoll_wait(ep, &ev, 1, 2000));
	printf("events %x\n", ev.events);
	pf = (struct pollfd){ fd, POLLIN | POLLHUP, 0 };
	T(poll(&pf, 1, 2000));
	printf("revents %x\n", pf.revents);
	T(psend(fd, 0, NULL, 0));
	T(psend(fd, SIGKILL, NULL, 0));
	T(popen_(p, 0) >= 0);
	T(pget(fd, 1, 0));
	fdinfo(fd, p);
	T(waitid(P_PIDFD, fd, &si, WEXITED | WNOWAIT));
	printf("code %d status %d pid %d\n", si.si_code, si.si_status, si.si_pid == p);
	T(waitid(P_PIDFD, fd2, &si, WEXITED));
	T(waitid(P_PIDFD, fd, &si, WEXITED));
	pf = (struct pollfd){ fd, POLLIN | POLLHUP, 0 };
	T(poll(&pf, 1, 2000));
	printf("revents %x\n", pf.revents);
	T(psend(fd, 0, NULL, 0));
	T(popen_(p, 0));
	T(pget(fd, 1, 0));
	fdinfo(fd, p);
	in.mask = 3 | 8;
	T(ioctl(fd, GET_INFO(64), &in));
	printf("exit code %s\n", in.mask & 8 ? status_text(in.exit_code) : "none");
	T(ioctl(fd, _IO(0xFF, 1), 0));

	/* Not one's own child: another may hold it, only the parent waits. */
	p = sleeper();
	fd = M(popen_(p, 0));
	CHILD("holder", {
		T(waitid(P_PIDFD, fd, &si, WEXITED));
		T(psend(fd, SIGKILL, NULL, 0));
		pf = (struct pollfd){ fd, POLLIN, 0 };
		T(poll(&pf, 1, 2000));
	});
	T(waitid(P_PIDFD, fd, &si, WEXITED));
	close(fd);

	/* clone(2) makes one, too. */
	fd = -1;
	p = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &fd, NULL, 0L);
	if (p == 0) _exit(5);
	T(waitid(P_PIDFD, fd, &si, WEXITED));
	printf("status %d\n", si.si_status);
	close(fd);
	T(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, NULL, &fd, NULL, 0L));
	T(syscall(SYS_clone, CLONE_PIDFD | CLONE_DETACHED | SIGCHLD, NULL, &fd, NULL, 0L));
	T(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, (int *)8, NULL, 0L));
	/* The peer of a socket by a pidfd. */
	int sv[2];
	M(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	socklen_t len = sizeof fd;
	T(getsockopt(sv[0], SOL_SOCKET, 77, &fd, &len));
	fdinfo(fd, getpid());
	return 0;
}
