/* oracle: user
 * Synchronous acceptance: sigtimedwait, sigwaitinfo; timers; kill to groups. */
#include "oracle.h"
#include <sys/timerfd.h>
#include <sys/eventfd.h>
#include <sys/epoll.h>

static volatile sig_atomic_t got;
static void on(int s)
{
	(void)s;
	got++;
}
static void show(const char *what, int r, siginfo_t *si)
{
	if (r == -1) printf("%s: %s\n", what, name_of(errno));
	else
		printf("%s: %s code %d pid %s value %d\n", what, sigabbrev_np(r) ? sigabbrev_np(r) : "RT", si->si_code,
		       si->si_code > 0 ? "none" : si->si_pid == getpid() ? "mine" : "other",
		       si->si_code == SI_QUEUE || si->si_code == SI_TIMER ? si->si_value.sival_int : 0);
}

int main(void)
{
	sigset_t m;
	siginfo_t si;
	struct timespec zero = { 0, 0 }, sec = { 2, 0 };
	sigemptyset(&m);
	sigaddset(&m, SIGUSR1);
	sigaddset(&m, SIGUSR2);
	sigaddset(&m, SIGCHLD);
	sigaddset(&m, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &m, NULL);
	show("nothing", sigtimedwait(&m, &si, &zero), &si);
	show("bad timeout", sigtimedwait(&m, &si, &(struct timespec){ 0, -1 }), &si);
	raise(SIGUSR2);
	raise(SIGUSR1);
	show("lowest first", sigtimedwait(&m, &si, &zero), &si);
	show("then", sigtimedwait(&m, &si, &zero), &si);
	for (int i = 3; i > 0; i--) sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i });
	for (int i = 0; i < 3; i++) show("queued", sigwaitinfo(&m, &si), &si);
	pid_t p = fork();
	if (p == 0) {
		msleep(50);
		kill(getppid(), SIGUSR1);
		_exit(4);
	}
	show("from a child", sigtimedwait(&m, &si, &sec), &si);
	int r = sigtimedwait(&m, &si, &sec);
	printf("then %s code %d status %d pid %s\n", r < 0 ? name_of(errno) : sigabbrev_np(r), si.si_code, si.si_status,
	       si.si_pid == p ? "child" : "other");
	reap("child", p);

	signal(SIGALRM, on);
	alarm(1);
	printf("alarm left %u\n", alarm(1));
	T(pause());
	struct itimerval it = { { 0, 20000 }, { 0, 20000 } };
	setitimer(ITIMER_REAL, &it, NULL);
	got = 0;
	while (got < 3) pause();
	memset(&it, 0, sizeof it);
	setitimer(ITIMER_REAL, &it, NULL);
	printf("three ticks\n");
	signal(SIGVTALRM, on);
	got = 0;
	it.it_value.tv_usec = 20000;
	setitimer(ITIMER_VIRTUAL, &it, NULL);
	for (volatile long i = 0; !got && i < 4000000000l; i++)
		;
	printf("virtual timer %d\n", got);
	timer_t t;
	struct sigevent se = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value = { .sival_int = 9 } };
	T(timer_create(CLOCK_MONOTONIC, &se, &t));
	struct itimerspec its = { { 0, 0 }, { 0, 20000000 } };
	timer_settime(t, 0, &its, NULL);
	show("timer", sigtimedwait(&m, &si, &sec), &si);
	timer_delete(t);
	int tf = M(timerfd_create(CLOCK_MONOTONIC, 0));
	timerfd_settime(tf, 0, &its, NULL);
	uint64_t n = 0;
	T(read(tf, &n, 8));
	printf("expirations %lu\n", (unsigned long)n);
	int ef = M(eventfd(3, EFD_NONBLOCK));
	T(read(ef, &n, 8));
	printf("eventfd %lu\n", (unsigned long)n);
	T(read(ef, &n, 8));

	/* To a group: two children in it, one outside. */
	pid_t g[3];
	for (int i = 0; i < 3; i++) {
		g[i] = fork();
		if (g[i] == 0) {
			for (;;) pause();
		}
		if (i < 2) M(setpgid(g[i], g[0]));
	}
	T(kill(-g[0], SIGTERM));
	reap("one", g[0]);
	reap("two", g[1]);
	T(kill(-g[0], SIGTERM));
	T(waitpid(g[2], NULL, WNOHANG));
	T(killpg(g[0], 0));
	T(kill(g[2], SIGKILL));
	T(kill(g[2], 0));
	reap("three", g[2]);
	T(kill(g[2], 0));

	sigset_t empty;
	sigemptyset(&empty);
	signal(SIGUSR1, on);
	got = 0;
	raise(SIGUSR1);
	printf("blocked: %d\n", got);
	T(sigsuspend(&empty));
	printf("delivered: %d\n", got);
	sigprocmask(SIG_BLOCK, NULL, &m);
	printf("mask is back: %d\n", sigismember(&m, SIGUSR1));
	raise(SIGUSR1);
	got = 0;
	T(ppoll(NULL, 0, &sec, &empty));
	printf("in ppoll: %d\n", got);
	raise(SIGUSR1);
	T(pselect(0, NULL, NULL, NULL, &sec, &empty));
	int ep = M(epoll_create1(0));
	struct epoll_event ev;
	raise(SIGUSR1);
	T(epoll_pwait(ep, &ev, 1, 2000, &empty));
	printf("in all: %d\n", got);
	return 0;
}
