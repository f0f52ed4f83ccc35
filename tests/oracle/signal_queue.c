/* oracle: user
 * Queues and limits, dispositions and their flags, masks of threads, what fork and exec keep, timers. */
#include "oracle.h"
#include <pthread.h>
#include <setjmp.h>

static volatile sig_atomic_t got, depth, deepest;
static int values[64], n_values;
static void on(int s)
{
	(void)s;
	got++;
}
static void with_value(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	if (n_values < 64) values[n_values++] = si->si_value.sival_int;
	got++;
}
static void nest(int s)
{
	if (++depth > deepest) deepest = depth;
	if (got++ < 3) raise(s);
	depth--;
}
static char alt[65536];
static volatile int on_alt, flags_inside;
static void where(int s)
{
	char here;
	(void)s;
	stack_t ss;
	sigaltstack(NULL, &ss);
	flags_inside = ss.ss_flags;
	on_alt = &here >= alt && &here < alt + sizeof alt;
	got++;
}
static void act(int s, void (*h)(int), int flags, int mask)
{
	struct sigaction sa = { .sa_handler = h, .sa_flags = flags };
	sigemptyset(&sa.sa_mask);
	if (mask) sigaddset(&sa.sa_mask, mask);
	sigaction(s, &sa, NULL);
}
static void block(int how, int s)
{
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, s);
	pthread_sigmask(how, &m, NULL);
}
static int pending(int s)
{
	sigset_t m;
	sigpending(&m);
	return sigismember(&m, s);
}
static void *masked_thread(void *arg)
{
	sigset_t m;
	pthread_sigmask(SIG_BLOCK, NULL, &m);
	printf("thread inherits the mask: %d\n", sigismember(&m, SIGUSR1));
	block(SIG_BLOCK, SIGUSR2);
	pthread_kill(pthread_self(), SIGUSR2);
	printf("thread: pending USR2 %d\n", pending(SIGUSR2));
	*(int *)arg = 1;
	return NULL;
}
static void *taker(void *arg)
{
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGUSR1);
	siginfo_t si;
	struct timespec t = { 3, 0 };
	int r = sigtimedwait(&m, &si, &t);
	printf("thread took %s\n", r < 0 ? name_of(errno) : sigabbrev_np(r));
	(void)arg;
	return NULL;
}
static void *idle(void *arg)
{
	struct timespec t = { 0, 300000000 };
	block(SIG_UNBLOCK, SIGUSR1);
	int r = nanosleep(&t, &t);
	printf("unblocked thread was interrupted: %d\n", r == -1 && errno == EINTR);
	(void)arg;
	return NULL;
}
static pid_t timer_thread;
static volatile sig_atomic_t in_thread;
static void whose(int s)
{
	(void)s;
	in_thread = gettid() == timer_thread;
	got++;
}
static volatile int stop_thread;
static void *spin(void *arg)
{
	timer_thread = gettid();
	*(int *)arg = 1;
	while (!stop_thread) usleep(1000);
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "after")) {
		struct sigaction a, b;
		sigset_t m;
		sigaction(SIGUSR1, NULL, &a);
		sigaction(SIGUSR2, NULL, &b);
		sigprocmask(SIG_BLOCK, NULL, &m);
		stack_t ss;
		sigaltstack(NULL, &ss);
		printf("after exec: caught is default %d, ignored stays %d, mask %d, pending %d, altstack off %d\n", a.sa_handler == SIG_DFL,
		       b.sa_handler == SIG_IGN, sigismember(&m, SIGRTMIN), pending(SIGRTMIN), ss.ss_flags == SS_DISABLE);
		struct itimerspec its;
		printf("timers are gone: %s\n", timer_gettime(0, &its) ? name_of(errno) : "no");
		siginfo_t si;
		sigemptyset(&m);
		sigaddset(&m, SIGRTMIN);
		int n = 0;
		while (sigtimedwait(&m, &si, &(struct timespec){ 0, 0 }) > 0) n++;
		printf("queued: %d\n", n);
		return 0;
	}
	/* Order: RT after standard, lower first, FIFO; standard once. */
	struct sigaction sa = { .sa_sigaction = with_value, .sa_flags = SA_SIGINFO };
	sigfillset(&sa.sa_mask);
	for (int s = 0; s < 3; s++) sigaction(SIGRTMIN + s, &sa, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	sigset_t all, old;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	int which[] = { SIGRTMIN + 2, SIGRTMIN, SIGUSR1, SIGRTMIN + 1, SIGRTMIN, SIGUSR1, SIGRTMIN };
	for (int i = 0; i < 7; i++) sigqueue(getpid(), which[i], (union sigval){ .sival_int = i });
	sigprocmask(SIG_SETMASK, &old, NULL);
	printf("order:");
	for (int i = 0; i < n_values; i++) printf(" %d", values[i]);
	printf("\n");

	CHILD("RLIMIT_SIGPENDING", {
		struct rlimit l = { 0, 0 };
		getrlimit(RLIMIT_SIGPENDING, &l);
		l.rlim_cur = 5;
		M(setrlimit(RLIMIT_SIGPENDING, &l));
		block(SIG_BLOCK, SIGRTMIN);
		int ok = 0;
		int e = 0;
		for (int i = 0; i < 50 && !e; i++) {
			if (sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i }) == 0) ok++;
			else e = errno;
		}
		printf("queued at most five: %d, then %s\n", ok <= 5, name_of(e));
		/* Standard signals and kill never fail for it. */
		T(kill(getpid(), SIGRTMIN));
		block(SIG_BLOCK, SIGUSR2);
		T(kill(getpid(), SIGUSR2));
		printf("pending %d\n", pending(SIGUSR2));
		T(sigqueue(getpid(), SIGUSR2, (union sigval){ .sival_int = 1 }));
		T(sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 1 }));
	});

	/* Flags of dispositions */
	got = 0;
	act(SIGUSR1, nest, 0, 0);
	raise(SIGUSR1);
	printf("deferred: %d deep\n", deepest);
	got = deepest = 0;
	act(SIGUSR1, nest, SA_NODEFER, 0);
	raise(SIGUSR1);
	printf("SA_NODEFER: %d deep\n", deepest);
	got = 0;
	act(SIGUSR1, on, SA_RESETHAND, 0);
	raise(SIGUSR1);
	sigaction(SIGUSR1, NULL, &sa);
	printf("SA_RESETHAND: default %d flags %x\n", sa.sa_handler == SIG_DFL, sa.sa_flags & ~0x04000000);
	CHILD("second time", raise(SIGUSR1));
	stack_t ss = { .ss_sp = alt, .ss_size = sizeof alt };
	T(sigaltstack(&ss, NULL));
	act(SIGUSR1, where, SA_ONSTACK, 0);
	raise(SIGUSR1);
	printf("SA_ONSTACK: on it %d, flags inside %x\n", on_alt, flags_inside);
	ss.ss_flags = 1 << 31;
	T(sigaltstack(&ss, NULL));
	raise(SIGUSR1);
	printf("SS_AUTODISARM: on it %d, flags inside %x\n", on_alt, flags_inside);
	sigaltstack(NULL, &ss);
	printf("restored %x\n", ss.ss_flags);
	act(SIGUSR1, where, 0, 0);
	raise(SIGUSR1);
	printf("without: on it %d\n", on_alt);
	ss.ss_flags = SS_DISABLE;
	sigaltstack(&ss, NULL);
	T(sigaction(SIGKILL, &sa, NULL));
	T(sigaction(SIGSTOP, &sa, NULL));
	T(sigaction(SIGKILL, NULL, &sa));
	T(syscall(SYS_rt_sigaction, 0, NULL, &sa, 8));
	T(syscall(SYS_rt_sigaction, 65, NULL, &sa, 8));
	T(syscall(SYS_rt_sigaction, 1, NULL, &sa, 4));

	/* Ignoring throws away what is pending; default of SIGCHLD and SIGCONT too. */
	block(SIG_BLOCK, SIGUSR1);
	raise(SIGUSR1);
	printf("pending %d", pending(SIGUSR1));
	signal(SIGUSR1, SIG_IGN);
	printf(", ignored %d\n", pending(SIGUSR1));
	raise(SIGUSR1);
	printf("blocked and ignored: pending %d\n", pending(SIGUSR1));
	block(SIG_BLOCK, SIGCHLD);
	signal(SIGCHLD, SIG_DFL);
	raise(SIGCHLD);
	printf("SIGCHLD blocked and default: pending %d\n", pending(SIGCHLD));
	act(SIGUSR1, on, 0, 0);
	block(SIG_UNBLOCK, SIGCHLD);
	/* A stop signal takes a pending SIGCONT away, and the other way round. */
	block(SIG_BLOCK, SIGCONT);
	block(SIG_BLOCK, SIGTSTP);
	act(SIGCONT, on, 0, 0);
	raise(SIGCONT);
	printf("CONT pending %d", pending(SIGCONT));
	raise(SIGTSTP);
	printf(", after TSTP %d %d", pending(SIGCONT), pending(SIGTSTP));
	raise(SIGCONT);
	printf(", after CONT %d %d\n", pending(SIGCONT), pending(SIGTSTP));
	block(SIG_UNBLOCK, SIGCONT);
	block(SIG_UNBLOCK, SIGTSTP);

	/* Threads have masks of their own; a process signal goes to one that takes it. */
	int done = 0;
	pthread_t t;
	block(SIG_BLOCK, SIGUSR1);
	act(SIGUSR2, on, 0, 0);
	pthread_create(&t, NULL, masked_thread, &done);
	pthread_join(t, NULL);
	printf("main: USR2 pending %d blocked %d\n", pending(SIGUSR2), ({ sigset_t m; pthread_sigmask(SIG_BLOCK, NULL, &m); sigismember(&m, SIGUSR2); }));
	pthread_create(&t, NULL, taker, NULL);
	msleep(30);
	kill(getpid(), SIGUSR1);
	pthread_join(t, NULL);
	got = 0;
	pthread_create(&t, NULL, idle, NULL);
	msleep(50);
	kill(getpid(), SIGUSR1);
	pthread_join(t, NULL);
	printf("handled %d\n", got);
	/* Pending for the process is shared, for a thread its own; a fork has neither. */
	kill(getpid(), SIGUSR1);
	pthread_kill(pthread_self(), SIGUSR1);
	printf("pending %d\n", pending(SIGUSR1));
	CHILD("fork", {
		sigset_t m;
		pthread_sigmask(SIG_BLOCK, NULL, &m);
		printf("pending in a child %d, mask %d\n", pending(SIGUSR1), sigismember(&m, SIGUSR1));
	});
	got = 0;
	block(SIG_UNBLOCK, SIGUSR1);
	printf("both came: %d\n", got);

	/* Timers */
	struct sigevent se = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2 };
	int ready = 0;
	pthread_create(&t, NULL, spin, &ready);
	while (!*(volatile int *)&ready) msleep(1);
	act(SIGUSR2, whose, 0, 0);
	se._sigev_un._tid = timer_thread;
	timer_t id;
	struct itimerspec its = { { 0, 0 }, { 0, 5000000 } };
	got = 0;
	T(timer_create(CLOCK_MONOTONIC, &se, &id) == 0);
	timer_settime(id, 0, &its, NULL);
	for (int i = 0; i < 1000 && !got; i++) msleep(1);
	printf("SIGEV_THREAD_ID: in the thread %d\n", in_thread);
	timer_delete(id);
	stop_thread = 1;
	pthread_join(t, NULL);
	se._sigev_un._tid = 0x3ffffff;
	T(timer_create(CLOCK_MONOTONIC, &se, &id));
	se.sigev_signo = 65;
	se.sigev_notify = SIGEV_SIGNAL;
	T(timer_create(CLOCK_MONOTONIC, &se, &id));
	T(timer_create(99, NULL, &id));
	se.sigev_notify = 77;
	T(timer_create(CLOCK_MONOTONIC, &se, &id));
	se.sigev_notify = SIGEV_NONE;
	se.sigev_signo = SIGUSR1;
	T(timer_create(CLOCK_MONOTONIC, &se, &id) == 0);
	its.it_value.tv_sec = 100;
	T(timer_settime(id, 0, &its, NULL));
	struct itimerspec left;
	T(timer_gettime(id, &left));
	printf("left about 100: %d\n", left.it_value.tv_sec >= 99);
	timer_delete(id);
	T(timer_gettime(id, &left));
	/* Overrun: many expirations, one signal. */
	block(SIG_BLOCK, SIGRTMIN);
	se = (struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value = { .sival_int = 31 } };
	M(timer_create(CLOCK_MONOTONIC, &se, &id));
	its = (struct itimerspec){ { 0, 1000000 }, { 0, 1000000 } };
	timer_settime(id, 0, &its, NULL);
	msleep(50);
	siginfo_t si;
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGRTMIN);
	int r = sigtimedwait(&m, &si, &(struct timespec){ 1, 0 });
	printf("overrun: signal %d code %d value %d many %d\n", r == SIGRTMIN, si.si_code, si.si_value.sival_int, si.si_overrun > 10);
	printf("timer_getoverrun agrees %d\n", timer_getoverrun(id) == si.si_overrun);
	timer_delete(id);
	while (sigtimedwait(&m, &si, &(struct timespec){ 0, 0 }) > 0)
		;
	/* A timer's process is its own: a child has none. */
	se.sigev_signo = SIGUSR1;
	M(timer_create(CLOCK_REALTIME, &se, &id));
	CHILD("timers are not inherited", T(timer_gettime(id, &left)));
	struct itimerval it = { { 0, 0 }, { 100, 0 } };
	setitimer(ITIMER_REAL, &it, NULL);
	CHILD("nor are interval timers", { getitimer(ITIMER_REAL, &it); printf("%ld\n", (long)it.it_value.tv_sec); });
	T(setitimer(7, &it, NULL));
	it.it_value.tv_usec = 1000000;
	T(setitimer(ITIMER_REAL, &it, NULL));
	/* vfork: the parent is suspended, its signals wait; the child has its own dispositions. */
	act(SIGUSR1, on, 0, 0);
	got = 0;
	pid_t parent = getpid();
	pid_t p = vfork();
	if (p == 0) {
		signal(SIGUSR2, SIG_IGN);
		kill(parent, SIGUSR1);
		_exit(got);
	}
	sigaction(SIGUSR2, NULL, &sa);
	printf("vfork: got %d, parent's disposition kept %d\n", got, sa.sa_handler == whose);
	reap("vfork", p);
	/* SIGSTOP to a parent in vfork waits for it; SIGKILL does not. */
	p = fork();
	if (p == 0) {
		if (vfork() == 0) {
			msleep(200);
			_exit(0);
		}
		_exit(3);
	}
	msleep(60);
	kill(p, SIGKILL);
	reap("killed in vfork", p);

	signal(SIGUSR2, SIG_IGN);
	act(SIGUSR1, on, 0, 0);
	block(SIG_BLOCK, SIGRTMIN);
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 1 });
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 2 });
	ss = (stack_t){ .ss_sp = alt, .ss_size = sizeof alt };
	sigaltstack(&ss, NULL);
	CHILD("an alarm goes on over exec", { alarm(1); execl("/bin/sleep", "sleep", "10", NULL); });
	execl("/proc/self/exe", "signal_queue", "after", NULL);
	printf("exec: %s\n", name_of(errno));
	return 1;
}
