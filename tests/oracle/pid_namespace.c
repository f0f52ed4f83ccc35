/* oracle: root
 * Signals to a pid namespace's init, its end, setns for children, subreapers, and numbers chosen by hand. */
#include "oracle.h"
#include <linux/sched.h>
#include <sys/prctl.h>

static volatile sig_atomic_t got, from;
static void on(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	from = si->si_pid;
	got++;
}

static pid_t in_new(void)
{
	return syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, 0L);
}

static void catch(int s)
{
	struct sigaction sa = { .sa_sigaction = on, .sa_flags = SA_SIGINFO };
	sigaction(s, &sa, NULL);
}

/* A child that sends `s` to init and says what it got. */
static void from_child(const char *what, int s)
{
	pid_t c = fork();
	if (c == 0) {
		_exit(kill(1, s) ? errno : 0);
	}
	int st;
	while (waitpid(c, &st, 0) == -1 && errno == EINTR)
		;
	printf("%s: child's kill(1, %s): %s\n", what, sigabbrev_np(s), name_of(WEXITSTATUS(st)));
}

static void immunity(void)
{
	pid_t p = in_new();
	if (p == 0) {
		int all[] = { SIGTERM, SIGKILL, SIGSTOP, SIGSEGV, SIGHUP, SIGTSTP, SIGALRM, SIGCHLD, SIGCONT, SIGPIPE };
		for (size_t i = 0; i < sizeof all / sizeof *all; i++) from_child("default", all[i]);
		T(kill(getpid(), SIGTERM));
		T(raise(SIGUSR1));
		M(setsid());
		T(kill(0, SIGTERM));
		T(kill(-1, SIGTERM));
		signal(SIGUSR1, SIG_IGN);
		from_child("ignored", SIGUSR1);
		catch(SIGUSR1);
		from_child("caught", SIGUSR1);
		printf("caught %d from a child: %s\n", got, from > 1 ? "yes" : "no");
		sigset_t m, pend;
		sigemptyset(&m);
		sigaddset(&m, SIGUSR2);
		sigaddset(&m, SIGKILL);
		sigprocmask(SIG_BLOCK, &m, NULL);
		from_child("blocked", SIGUSR2);
		sigpending(&pend);
		printf("blocked and default: pending %d\n", sigismember(&pend, SIGUSR2));
		sigprocmask(SIG_UNBLOCK, &m, NULL);
		printf("unblocked: lives\n");
		/* A SIGALRM of its own timer is the kernel's, and does nothing either. */
		struct itimerval it = { { 0, 0 }, { 0, 10000 } };
		setitimer(ITIMER_REAL, &it, NULL);
		msleep(50);
		printf("own alarm: lives\n");
		int pp[2];
		M(pipe(pp));
		close(pp[0]);
		T(write(pp[1], "x", 1));
		printf("own SIGPIPE: lives\n");
		/* A fault is forced. */
		*(volatile int *)8 = 1;
		_exit(0);
	}
	reap("init that faults", p);
	int io[2];
	M(pipe(io));
	p = in_new();
	if (p == 0) {
		catch(SIGUSR1);
		close(io[0]);
		if (write(io[1], "r", 1) != 1) _exit(1);
		for (;;) {
			msleep(2);
			if (got) {
				printf("caught from outside, si_pid %d\n", from);
				got = 0;
				if (write(io[1], "g", 1) != 1) _exit(1);
			}
		}
	}
	close(io[1]);
	char c;
	M(read(io[0], &c, 1));
	int st;
	T(kill(p, SIGTERM));
	T(kill(p, SIGINT));
	T(kill(p, SIGTSTP));
	T(kill(p, SIGQUIT));
	T(kill(p, SIGUSR1));
	T(read(io[0], &c, 1));
	T(kill(p, SIGSTOP));
	T(waitpid(p, &st, WUNTRACED) == p);
	printf("SIGSTOP from outside: %s\n", status_text(st));
	T(kill(p, SIGCONT));
	T(waitpid(p, &st, WCONTINUED) == p);
	T(syscall(SYS_tgkill, p, p, SIGKILL));
	reap("SIGKILL from outside", p);
	close(io[0]);
}

/* Init that calls exit_group while tasks of all kinds are around: their parent inside is gone with them. */
static void end_of_init(void)
{
	int io[2], st;
	M(pipe(io));
	pid_t p = in_new();
	if (p == 0) {
		close(io[0]);
		for (int i = 0; i < 3; i++)
			if (fork() == 0) {
				signal(SIGTERM, SIG_IGN);
				if (fork() == 0) setsid();
				for (;;) pause();
			}
		/* One that is stopped and a zombie. */
		pid_t s = fork();
		if (s == 0) {
			raise(SIGSTOP);
			_exit(0);
		}
		waitpid(s, &st, WUNTRACED);
		if (fork() == 0) _exit(0);
		msleep(30);
		_exit(7);
	}
	close(io[1]);
	char c;
	printf("all gone: %zd\n", read(io[0], &c, 1));
	close(io[0]);
	reap("init", p);
	/* The namespace stays as a place nobody can be born in. */
	M(pipe(io));
	p = in_new();
	if (p == 0) {
		char b;
		close(io[1]);
		if (read(io[0], &b, 1) < 0) _exit(1);
		_exit(0);
	}
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/pid", p);
	int ns = M(open(path, O_RDONLY));
	CHILD("setns into a living one", {
		T(setns(ns, CLONE_NEWPID));
		pid_t k = fork();
		if (k == 0) {
			printf("inside: %d parent %d\n", getpid(), getppid());
			fflush(stdout);
			_exit(3);
		}
		reap("grandchild", k);
		T(unshare(CLONE_NEWPID));
	});
	close(io[0]);
	close(io[1]);
	reap("its init", p);
	CHILD("setns into a dead one", {
		T(setns(ns, CLONE_NEWPID));
		OK(fork());
		OK(syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0));
	});
	close(ns);
	/* Downwards only. */
	CHILD("upwards", {
		int up = M(open("/proc/self/ns/pid", O_RDONLY));
		pid_t k = in_new();
		if (k == 0) {
			T(setns(up, CLONE_NEWPID));
			_exit(0);
		}
		reap("child", k);
		T(setns(up, CLONE_NEWPID));
		M(unshare(CLONE_NEWPID));
		T(setns(up, CLONE_NEWPID));
		OK(unshare(CLONE_NEWPID));
	});
}

static void subreaper(void)
{
	int v = -1, io[2];
	M(pipe(io));
	T(prctl(PR_GET_CHILD_SUBREAPER, &v));
	printf("subreaper %d\n", v);
	CHILD("subreaper", {
		T(prctl(PR_SET_CHILD_SUBREAPER, 1));
		pid_t me = getpid();
		pid_t mid = fork();
		if (mid == 0) {
			T(prctl(PR_GET_CHILD_SUBREAPER, &v));
			printf("inherited %d\n", v);
			pid_t o = fork();
			if (o == 0) {
				while (getppid() == getpid()) msleep(1);
				char b;
				if (read(io[0], &b, 1) != 1) _exit(1);
				printf("adopted by the subreaper: %d\n", getppid() == me);
				fflush(stdout);
				_exit(9);
			}
			_exit(0);
		}
		reap("middle", mid);
		M(write(io[1], "x", 1));
		int st = 0;
		T(wait(&st) > 0);
		printf("orphan: %s\n", status_text(st));
		T(wait(&st));
		T(prctl(PR_SET_CHILD_SUBREAPER, 0));
		T(prctl(PR_GET_CHILD_SUBREAPER, &v));
		printf("now %d\n", v);
	});
	/* A new pid namespace ends the line of subreapers. */
	CHILD("subreaper outside", {
		T(prctl(PR_SET_CHILD_SUBREAPER, 1));
		pid_t k = in_new();
		if (k == 0) {
			pid_t mid = fork();
			if (mid == 0) {
				pid_t me = getpid();
				if (fork() == 0) {
					while (getppid() == me) msleep(1);
					printf("orphan's parent: %d\n", getppid());
					fflush(stdout);
					_exit(0);
				}
				_exit(0);
			}
			int n = 0;
			while (wait(NULL) > 0) n++;
			printf("init waited for %d\n", n);
			fflush(stdout);
			_exit(0);
		}
		reap("init", k);
	});
	/* setns'd into: the parent outside is not the reaper. */
	close(io[0]);
	close(io[1]);
}

static long clone3_with(struct clone_args *a)
{
	return syscall(SYS_clone3, a, sizeof *a);
}

static void set_tid(void)
{
	pid_t p = in_new();
	if (p == 0) {
		pid_t tids[4] = { 77, 0, 0, 0 };
		struct clone_args a = { .exit_signal = SIGCHLD, .set_tid = (uintptr_t)tids, .set_tid_size = 1 };
		long r = clone3_with(&a);
		if (r == 0) _exit(getpid() == 77 ? 1 : 2);
		printf("set_tid: %ld\n", r);
		r = T(clone3_with(&a));
		if (r == 0) _exit(0);
		reap("77", 77);
		r = clone3_with(&a);
		if (r == 0) _exit(4);
		printf("again: %ld\n", r);
		reap("77 again", 77);
		pid_t next = fork();
		if (next == 0) _exit(0);
		printf("the next one: %d\n", next);
		waitpid(next, NULL, 0);
		tids[0] = 0;
		T(clone3_with(&a));
		tids[0] = -3;
		T(clone3_with(&a));
		tids[0] = 1;
		T(clone3_with(&a));
		tids[0] = 0x7fffffff;
		T(clone3_with(&a));
		tids[0] = 90;
		a.set_tid_size = 0;
		T(clone3_with(&a));
		a.set_tid_size = 33;
		T(clone3_with(&a));
		a.set_tid_size = 20;
		T(clone3_with(&a));
		a.set_tid_size = 1;
		a.set_tid = 0;
		T(clone3_with(&a));
		a.set_tid = 8;
		T(clone3_with(&a));
		/* Two levels at once: 1 inside, 91 here. */
		pid_t two[2] = { 1, 91 };
		a.flags = CLONE_NEWPID;
		a.set_tid = (uintptr_t)two;
		a.set_tid_size = 2;
		r = clone3_with(&a);
		if (r == 0) {
			printf("inner: %d\n", getpid());
			fflush(stdout);
			_exit(6);
		}
		reap("91", 91);
		two[0] = 2;
		two[1] = 92;
		r = T(clone3_with(&a));
		if (r == 0) _exit(0);
		_exit(0);
	}
	reap("init", p);
}

static void clone3_rules(void)
{
	struct clone_args a = { 0 };
	long r;
	a.exit_signal = 65;
	T(clone3_with(&a));
	a.exit_signal = 0x100;
	T(clone3_with(&a));
	a.exit_signal = SIGCHLD;
	a.flags = 0xff;
	T(clone3_with(&a));
	a.flags = 1ull << 34;
	T(clone3_with(&a));
	a.flags = 1ull << 63;
	T(clone3_with(&a));
	a.flags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
	T(clone3_with(&a));
	a.flags = CLONE_PARENT;
	a.exit_signal = SIGCHLD;
	T(clone3_with(&a));
	a.flags = CLONE_CLEAR_SIGHAND | CLONE_SIGHAND | CLONE_VM;
	T(clone3_with(&a));
	a.flags = 0;
	a.stack = 4096;
	T(clone3_with(&a));
	a.stack = 0;
	a.stack_size = 4096;
	T(clone3_with(&a));
	a.stack = 0x7fff0000000;
	a.stack_size = -4096;
	T(clone3_with(&a));
	a.stack = a.stack_size = 0;
	T(syscall(SYS_clone3, &a, 63));
	T(syscall(SYS_clone3, &a, 4097));
	T(syscall(SYS_clone3, NULL, sizeof a));
	T(syscall(SYS_clone3, 8, sizeof a));
	char big[128];
	memset(big, 0, sizeof big);
	memcpy(big, &a, sizeof a);
	big[100] = 1;
	T(syscall(SYS_clone3, big, sizeof big));
	big[100] = 0;
	r = syscall(SYS_clone3, big, sizeof big);
	if (r == 0) _exit(11);
	reap("longer than known", r);
	r = syscall(SYS_clone3, &a, 64);
	if (r == 0) _exit(12);
	reap("first version", r);
	a.flags = CLONE_INTO_CGROUP;
	a.cgroup = 1ull << 40;
	T(clone3_with(&a));
	a.cgroup = 0;
	int fd = M(open("/dev/null", O_RDONLY));
	a.cgroup = fd;
	T(clone3_with(&a));
	close(fd);
	T(clone3_with(&a));
	T(syscall(SYS_clone3, &a, 80));
	a.cgroup = 0;
	a.flags = CLONE_CLEAR_SIGHAND;
	catch(SIGUSR1);
	signal(SIGUSR2, SIG_IGN);
	r = clone3_with(&a);
	if (r == 0) {
		struct sigaction x, y;
		sigaction(SIGUSR1, NULL, &x);
		sigaction(SIGUSR2, NULL, &y);
		printf("cleared: caught %d ignored %d\n", x.sa_handler == SIG_DFL, y.sa_handler == SIG_IGN);
		fflush(stdout);
		_exit(0);
	}
	reap("cleared", r);
	/* No exit signal: only __WCLONE and __WALL see it. */
	a.flags = 0;
	a.exit_signal = 0;
	r = clone3_with(&a);
	if (r == 0) _exit(13);
	T(waitpid(r, NULL, 0));
	int st;
	T(waitpid(r, &st, __WCLONE) == r);
	printf("%s\n", status_text(st));
	a.exit_signal = SIGUSR1;
	got = 0;
	r = clone3_with(&a);
	if (r == 0) _exit(14);
	while (!got) msleep(1);
	printf("told by SIGUSR1 from the child: %d\n", from == r);
	T(waitpid(r, &st, __WALL) == r);
	pid_t tid = -1;
	int pfd = -1;
	a.exit_signal = SIGCHLD;
	a.flags = CLONE_PIDFD | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID;
	a.parent_tid = (uintptr_t)&tid;
	a.child_tid = (uintptr_t)&tid;
	a.pidfd = (uintptr_t)&pfd;
	r = clone3_with(&a);
	if (r == 0) _exit(tid == getpid() ? 15 : 16);
	printf("parent_tid %d, pidfd %d, cloexec %d\n", tid == r, pfd >= 0, fcntl(pfd, F_GETFD));
	siginfo_t si;
	T(waitid(P_PIDFD, pfd, &si, WEXITED));
	printf("status %d pid %d\n", si.si_status, si.si_pid == r);
	T(syscall(SYS_pidfd_send_signal, pfd, SIGKILL, NULL, 0));
	close(pfd);
	a.pidfd = 8;
	T(clone3_with(&a));
	while (wait(NULL) > 0)
		;
}

int main(void)
{
	printf("-- immunity\n");
	immunity();
	printf("-- end of init\n");
	end_of_init();
	printf("-- subreaper\n");
	subreaper();
	printf("-- set_tid\n");
	set_tid();
	printf("-- clone3\n");
	clone3_rules();
	return 0;
}
