/* oracle: user
 * Handlers: siginfo, flags, nesting, masks over fork and exec, pending sets. */
#include "oracle.h"

static volatile sig_atomic_t depth, deepest, count;
static void info(int s, siginfo_t *si, void *u)
{
	(void)u;
	printf("handler %s: signo %s code %d", sigabbrev_np(s), sigabbrev_np(si->si_signo), si->si_code);
	if (si->si_code == SI_USER || si->si_code == SI_TKILL || si->si_code == SI_QUEUE)
		printf(" pid %s uid %s", si->si_pid == getpid() ? "mine" : si->si_pid == getppid() ? "parent" : "other",
		       si->si_uid == getuid() ? "mine" : "other");
	if (si->si_code == SI_QUEUE) printf(" value %d", si->si_value.sival_int);
	printf("\n");
}
static void nest(int s)
{
	depth++;
	if (depth > deepest) deepest = depth;
	if (depth < 3 && count < 4) raise(s);
	depth--;
	count++;
}
static void other(int s) { printf("in handler of %s\n", sigabbrev_np(s)); }
static void raises_other(int s)
{
	printf("enter %s\n", sigabbrev_np(s));
	raise(SIGUSR2);
	printf("leave %s\n", sigabbrev_np(s));
}
static void masks(int s)
{
	sigset_t m;
	sigprocmask(SIG_SETMASK, NULL, &m);
	printf("%s masked in handler: USR1 %d USR2 %d TERM %d\n", sigabbrev_np(s), sigismember(&m, SIGUSR1),
	       sigismember(&m, SIGUSR2), sigismember(&m, SIGTERM));
}
static void set(int sig, void *h, int flags, int mask)
{
	struct sigaction sa = { .sa_flags = flags };
	sa.sa_sigaction = h;
	sigemptyset(&sa.sa_mask);
	if (mask) sigaddset(&sa.sa_mask, mask);
	M(sigaction(sig, &sa, NULL));
}
static void chld(int s, siginfo_t *si, void *u)
{
	(void)u;
	printf("%s: code %d status %d uid %s\n", sigabbrev_np(s), si->si_code, si->si_status,
	       si->si_uid == getuid() ? "mine" : "other");
}

int main(int argc, char **argv)
{
	sigset_t m, old;
	if (argc > 1) {
		sigprocmask(SIG_SETMASK, NULL, &m);
		sigpending(&old);
		struct sigaction sa;
		sigaction(SIGUSR1, NULL, &sa);
		printf("after exec: USR1 %s", sa.sa_handler == SIG_DFL ? "default" : "other");
		sigaction(SIGUSR2, NULL, &sa);
		printf(", USR2 %s, TERM blocked %d, pending %d, SIGSYS blocked %d\n",
		       sa.sa_handler == SIG_IGN ? "ignored" : "other", sigismember(&m, SIGTERM),
		       sigismember(&old, SIGTERM), sigismember(&m, SIGSYS));
		return 0;
	}
	set(SIGUSR1, info, SA_SIGINFO | SA_RESTART, 0);
	raise(SIGUSR1);
	kill(getpid(), SIGUSR1);
	union sigval v = { .sival_int = 42 };
	T(sigqueue(getpid(), SIGUSR1, v));
	CHILD("from child", { kill(getppid(), SIGUSR1); });
	set(SIGRTMIN + 3, info, SA_SIGINFO, 0);
	sigemptyset(&m);
	sigaddset(&m, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &m, &old);
	for (int i = 0; i < 3; i++) {
		v.sival_int = i;
		sigqueue(getpid(), SIGRTMIN + 3, v);
	}
	sigpending(&m);
	printf("pending: %d\n", sigismember(&m, SIGRTMIN + 3));
	sigprocmask(SIG_SETMASK, &old, NULL);

	set(SIGUSR1, nest, SA_NODEFER, 0);
	raise(SIGUSR1);
	printf("NODEFER: deepest %d, ran %d\n", deepest, count);
	deepest = count = 0;
	set(SIGUSR1, nest, 0, 0);
	raise(SIGUSR1);
	printf("deferred: deepest %d, ran at least 2: %d\n", deepest, count >= 2);
	set(SIGUSR1, other, SA_RESETHAND, 0);
	raise(SIGUSR1);
	struct sigaction sa;
	sigaction(SIGUSR1, NULL, &sa);
	printf("RESETHAND left %s\n", sa.sa_handler == SIG_DFL ? "default" : "handler");
	set(SIGUSR1, raises_other, 0, 0);
	set(SIGUSR2, other, 0, 0);
	raise(SIGUSR1);
	set(SIGUSR1, raises_other, 0, SIGUSR2);
	raise(SIGUSR1);
	set(SIGUSR1, masks, 0, SIGTERM);
	raise(SIGUSR1);
	set(SIGUSR1, masks, SA_NODEFER, SIGUSR2);
	raise(SIGUSR1);
	sigprocmask(SIG_SETMASK, NULL, &m);
	printf("mask after: USR1 %d USR2 %d TERM %d\n", sigismember(&m, SIGUSR1), sigismember(&m, SIGUSR2),
	       sigismember(&m, SIGTERM));
	sigaction(SIGUSR1, NULL, &sa);
	printf("oldact: flags %x handler kept %d mask USR2 %d\n", sa.sa_flags & 0x7bffffff, sa.sa_handler == (void *)masks,
	       sigismember(&sa.sa_mask, SIGUSR2));

	T(sigaction(SIGKILL, &sa, NULL));
	T(sigaction(SIGSTOP, &sa, NULL));
	T(sigaction(0, &sa, NULL));
	T(sigaction(65, &sa, NULL));
	T(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4));
	T(syscall(SYS_rt_sigaction, SIGUSR1, (void *)8, NULL, 8));
	T(syscall(SYS_rt_sigprocmask, 99, &m, NULL, 8));
	T(syscall(SYS_rt_sigprocmask, 99, NULL, NULL, 8));
	T(kill(getpid(), 0));
	T(kill(getpid(), 65));
	T(kill(getpid(), -1));
	T(kill(0x3ffffff0, SIGTERM));
	T(kill(-0x3ffffff0, SIGTERM));

	/* Blocking everything leaves KILL and STOP open. */
	sigfillset(&m);
	sigprocmask(SIG_SETMASK, &m, &old);
	sigprocmask(SIG_SETMASK, NULL, &m);
	printf("full mask: KILL %d STOP %d SYS %d SEGV %d\n", sigismember(&m, SIGKILL), sigismember(&m, SIGSTOP),
	       sigismember(&m, SIGSYS), sigismember(&m, SIGSEGV));
	CHILD("mask is inherited, pending is not", {
		raise(SIGTERM);
		sigpending(&m);
		printf("own pending %d\n", sigismember(&m, SIGTERM));
		CHILD("grandchild", {
			sigpending(&m);
			printf("pending after fork %d\n", sigismember(&m, SIGTERM));
			sigprocmask(SIG_SETMASK, NULL, &m);
			printf("blocked after fork %d\n", sigismember(&m, SIGTERM));
		});
	});
	sigprocmask(SIG_SETMASK, &old, NULL);

	CHILD("exec keeps mask, pending and ignores", {
		sigemptyset(&m);
		sigaddset(&m, SIGTERM);
		sigprocmask(SIG_BLOCK, &m, NULL);
		raise(SIGTERM);
		signal(SIGUSR2, SIG_IGN);
		execl("/proc/self/exe", "signal_basic", "exec", NULL);
	});
	set(SIGCHLD, chld, SA_SIGINFO | SA_RESTART, 0);
	CHILD("exit", _exit(7));
	CHILD("killed", raise(SIGKILL));
	set(SIGCHLD, chld, SA_SIGINFO | SA_RESTART | SA_NOCLDSTOP, 0);
	pid_t p = fork();
	if (p == 0) {
		raise(SIGSTOP);
		_exit(0);
	}
	int st;
	waitpid(p, &st, WUNTRACED);
	printf("NOCLDSTOP: %s\n", status_text(st));
	kill(p, SIGCONT);
	reap("continued", p);
	signal(SIGCHLD, SIG_DFL);
	CHILD("default TERM", raise(SIGTERM));
	CHILD("ignored by default", { raise(SIGWINCH); raise(SIGURG); raise(SIGCHLD); });
	CHILD("SIGPIPE", { int pi[2]; M(pipe(pi)); close(pi[0]); T(write(pi[1], "x", 1)); });
	CHILD("EPIPE", { signal(SIGPIPE, SIG_IGN); int pi[2]; M(pipe(pi)); close(pi[0]); T(write(pi[1], "x", 1)); });
	CHILD("handler of SIGSYS", { set(SIGSYS, other, 0, 0); raise(SIGSYS); printf("back\n"); });
	CHILD("default of SIGSYS", { struct rlimit z = { 0, 0 }; setrlimit(RLIMIT_CORE, &z); raise(SIGSYS); });
	return 0;
}
