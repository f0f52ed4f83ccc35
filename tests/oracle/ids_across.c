/* oracle: root
 * One process's numbers as another pid namespace sees them: signals, sockets, locks, owners of descriptors, messages, groups. */
#include "oracle.h"
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/shm.h>
#include <sys/sem.h>

static volatile sig_atomic_t got, from, code;
static void on(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	from = si->si_pid;
	code = si->si_code;
	got++;
}
static void catch(int s)
{
	struct sigaction sa = { .sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(s, &sa, NULL);
}
static pid_t in_new(void)
{
	return syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, 0L);
}
static void wait_for(volatile sig_atomic_t *v)
{
	for (int i = 0; i < 2000 && !*v; i++) msleep(1);
}
static const char *who(pid_t seen, pid_t p)
{
	return seen == p ? "the child" : seen == getpid() ? "me" : seen == 0 ? "0" : "other";
}

static void credentials(int s, const char *what, pid_t p)
{
	char b[1], control[256];
	struct iovec io = { b, sizeof b };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	long n = recvmsg(s, &m, 0);
	if (n < 0) {
		printf("%s: %s\n", what, name_of(errno));
		return;
	}
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_type != SCM_CREDENTIALS) {
		printf("%s: no credentials\n", what);
		return;
	}
	struct ucred *u = (void *)CMSG_DATA(c);
	printf("%s: pid %s uid %d gid %d\n", what, who(u->pid, p), u->uid, u->gid);
}

static long send_as(int s, pid_t pid)
{
	char control[CMSG_SPACE(sizeof(struct ucred))] = { 0 };
	struct iovec io = { "x", 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_CREDENTIALS;
	c->cmsg_len = CMSG_LEN(sizeof(struct ucred));
	struct ucred u = { pid, getuid(), getgid() };
	memcpy(CMSG_DATA(c), &u, sizeof u);
	return sendmsg(s, &m, 0);
}

static char big[65536];
static void sync_write(int fd)
{
	M(write(fd, "s", 1));
}
static void sync_read(int fd)
{
	char c;
	while (read(fd, &c, 1) == -1 && errno == EINTR)
		;
}

int main(void)
{
	int down[2], up[2], sv[2], one = 1, fd;
	M(pipe(down));
	M(pipe(up));
	M(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	M(setsockopt(sv[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
	M(setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
	catch(SIGUSR1);
	catch(SIGUSR2);
	put_file("lockfile", "0123456789", 0600);
	fd = M(open("lockfile", O_RDWR));
	pid_t parent = getpid();
	pid_t p = in_new();
	if (p == 0) {
		/* Told at the end, so that the order does not depend on who is faster. */
		setvbuf(stdout, big, _IOFBF, sizeof big);
		/* Signals upwards cannot be sent by number: there is none. */
		printf("in: getppid %d, kill(parent): %s\n", getppid(), kill(parent, 0) ? name_of(errno) : "found someone");
		sync_read(down[0]);
		wait_for(&got);
		printf("in: signal from %d code %d\n", from, code);
		sync_write(up[1]);
		/* Credentials */
		printf("in: send %ld\n", (long)write(sv[1], "y", 1));
		printf("in: send as myself %ld\n", send_as(sv[1], getpid()));
		sync_read(down[0]);
		credentials(sv[1], "in: from outside", -1);
		struct ucred u;
		socklen_t l = sizeof u;
		M(getsockopt(sv[1], SOL_SOCKET, SO_PEERCRED, &u, &l));
		printf("in: SO_PEERCRED %d\n", u.pid);
		/* Locks of a process outside */
		struct flock lk = { .l_type = F_WRLCK, .l_start = 0, .l_len = 2 };
		T(fcntl(fd, F_GETLK, &lk));
		printf("in: lock type %d pid %d\n", lk.l_type == F_WRLCK, lk.l_pid);
		lk = (struct flock){ .l_type = F_WRLCK, .l_start = 5, .l_len = 2 };
		T(fcntl(fd, F_SETLK, &lk));
		/* Owner of a descriptor set outside */
		printf("in: F_GETOWN %d\n", fcntl(up[0], F_GETOWN));
		T(fcntl(sv[1], F_SETOWN, 1));
		printf("in: F_GETOWN %d\n", fcntl(sv[1], F_GETOWN));
		/* System V */
		int q = M(msgget(4711, IPC_CREAT | 0600));
		struct { long t; char x[4]; } msg = { 1, "abc" };
		M(msgsnd(q, &msg, 4, 0));
		int sem = M(semget(4711, 1, IPC_CREAT | 0600));
		M(semctl(sem, 0, SETVAL, 3));
		struct msqid_ds ds;
		msgctl(q, IPC_STAT, &ds);
		printf("in: msg_lspid %d, GETPID %d\n", ds.msg_lspid, semctl(sem, 0, GETPID));
		/* Groups: the parent's group has no number here */
		printf("in: getpgrp %d getsid %d\n", getpgrp(), getsid(0));
		T(setpgid(0, 0));
		printf("in: getpgrp %d\n", getpgrp());
		sync_write(up[1]);
		sync_read(down[0]);
		fflush(stdout);
		_exit(0);
	}
	sync_write(down[1]);
	T(kill(p, SIGUSR1));
	sync_read(up[0]);
	credentials(sv[0], "out: plain", p);
	credentials(sv[0], "out: as itself", p);
	printf("out: send %ld\n", (long)write(sv[0], "z", 1));
	struct flock lk = { .l_type = F_WRLCK, .l_start = 0, .l_len = 2 };
	M(fcntl(fd, F_SETLK, &lk));
	M(fcntl(up[0], F_SETOWN, getpid()));
	sync_write(down[1]);
	sync_read(up[0]);
	lk = (struct flock){ .l_type = F_WRLCK, .l_start = 5, .l_len = 2 };
	T(fcntl(fd, F_GETLK, &lk));
	printf("out: locked by %s\n", who(lk.l_pid, p));
	printf("out: owner %s\n", who(fcntl(sv[1], F_GETOWN), p));
	int q = M(msgget(4711, 0)), sem = M(semget(4711, 1, 0));
	struct msqid_ds ds;
	msgctl(q, IPC_STAT, &ds);
	printf("out: msg_lspid %s, GETPID %s\n", who(ds.msg_lspid, p), who(semctl(sem, 0, GETPID), p));
	msgctl(q, IPC_RMID, NULL);
	semctl(sem, 0, IPC_RMID);
	printf("out: getpgid %s\n", who(getpgid(p), p));
	T(kill(-p, SIGUSR2));
	sync_write(down[1]);
	siginfo_t si;
	M(waitid(P_PID, p, &si, WEXITED));
	printf("out: waited for %s\n", who(si.si_pid, p));

	/* A process that joins by setns is a stranger's child there. */
	p = in_new();
	if (p == 0) {
		sync_write(up[1]);
		sync_read(down[0]);
		wait_for(&got);
		printf("init: from %d\n", from > 1 ? 99 : from);
		_exit(0);
	}
	got = 0;
	sync_read(up[0]);
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/pid", p);
	int ns = M(open(path, O_RDONLY));
	CHILD("joins", {
		M(setns(ns, CLONE_NEWPID));
		pid_t k = fork();
		if (k == 0) {
			printf("joined: pid>1 %d ppid %d pgrp %d sid %d\n", getpid() > 1, getppid(), getpgrp(), getsid(0));
			T(kill(1, SIGUSR1));
			T(kill(-1, 0));
			T(kill(0, 0));
			_exit(0);
		}
		reap("joined", k);
	});
	sync_write(down[1]);
	reap("init", p);

	/* Owners of descriptors: the rules of F_SETOWN. */
	struct { int type; pid_t pid; } ex;
	int e[2];
	M(socketpair(AF_UNIX, SOCK_STREAM, 0, e));
	T(fcntl(e[0], F_GETOWN));
	T(fcntl(e[0], F_SETOWN, 0x3ffffff));
	T(fcntl(e[0], F_SETOWN, 0x80000000));
	T(fcntl(e[0], F_SETOWN, getpid()));
	printf("owner %d\n", fcntl(e[0], F_GETOWN) == getpid());
	T(fcntl(e[0], F_GETOWN_EX, &ex));
	printf("kind %d pid %d\n", ex.type, ex.pid == getpid());
	ex.type = 9;
	T(fcntl(e[0], F_SETOWN_EX, &ex));
	ex.type = 0;
	T(fcntl(e[0], F_SETOWN_EX, &ex));
	memset(&ex, 1, sizeof ex);
	T(fcntl(e[0], F_GETOWN_EX, &ex));
	printf("kind %d pid %d\n", ex.type, ex.pid == getpid());
	T(fcntl(e[0], F_SETOWN_EX, 8));
	T(fcntl(e[0], F_GETOWN_EX, 8));
	T(fcntl(e[0], F_GETSIG));
	T(fcntl(e[0], F_SETSIG, 65));
	T(fcntl(e[0], F_SETSIG, -1));
	T(fcntl(e[0], F_SETSIG, SIGUSR2));
	T(fcntl(e[0], F_GETSIG));
	got = 0;
	T(fcntl(e[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	printf("flags %o\n", fcntl(e[0], F_GETFL));
	M(write(e[1], "a", 1));
	wait_for(&got);
	printf("got %d code %d\n", got > 0, code);
	int v = 0;
	T(ioctl(e[0], FIOASYNC, &v));
	printf("flags %o\n", fcntl(e[0], F_GETFL));
	int pid = getpid(), back = 0;
	T(ioctl(e[1], FIOSETOWN, &pid));
	T(ioctl(e[1], FIOGETOWN, &back));
	printf("FIOGETOWN %d\n", back == pid);
	T(ioctl(up[0], FIOGETOWN, &back));
	CHILD("an owner that is gone", {
		pid_t k = fork();
		if (k == 0) _exit(0);
		M(fcntl(e[0], F_SETOWN, k));
		waitpid(k, NULL, 0);
		T(fcntl(e[0], F_GETOWN));
		T(fcntl(e[0], F_SETOWN, 0));
		T(fcntl(e[0], F_GETOWN));
	});
	return 0;
}
