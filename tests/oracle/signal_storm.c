/* oracle: user
 * System calls of a thread that is signalled, called by a tracer, and told of others' writes, all the time: each returns what it
 * should, and no signal, stop or sleep is lost. And the signals that are nobody's business: SIGSYS and SIGSTKFLT that a program sends. */
#include "oracle.h"
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>

static volatile int stop, caught, last_code, last_pid;
static long wrong, parent;
static pid_t asker;

static void on(int s, siginfo_t *si, void *u)
{
	(void)s, (void)u;
	caught++;
	last_code = si->si_code;
	last_pid = si->si_pid;
}

static void *ask(void *arg)
{
	(void)arg;
	__atomic_store_n(&asker, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	while (!stop) {
		if (syscall(SYS_getppid) != parent) wrong++;
		if (syscall(SYS_close, -1) != -1) wrong++;
	}
	return NULL;
}

static void storm(int signal)
{
	pthread_t t;
	stop = caught = 0;
	wrong = 0;
	asker = 0;
	pthread_create(&t, NULL, ask, NULL);
	while (!__atomic_load_n(&asker, __ATOMIC_ACQUIRE)) sched_yield();
	for (int i = 0; i < 20000; i++) syscall(SYS_tgkill, getpid(), asker, signal);
	stop = 1;
	pthread_join(t, NULL);
	printf("%s: %s, %ld wrong\n", sigabbrev_np(signal), caught ? "caught" : "none", wrong);
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(signal, &sa, NULL);
}

/* What a program does with the two signals. */
static void ordinary(int signal)
{
	sigset_t set, was;
	const char *name = sigabbrev_np(signal);
	handle(signal, on);
	caught = 0;
	raise(signal);
	printf("%s: caught %d code %d pid %s\n", name, caught, last_code, last_pid == getpid() ? "mine" : "other");
	kill(getpid(), signal);
	printf("%s: caught %d code %d pid %s\n", name, caught, last_code, last_pid == getpid() ? "mine" : "other");
	sigqueue(getpid(), signal, (union sigval){ .sival_int = 5 });
	printf("%s: caught %d code %d pid %s\n", name, caught, last_code, last_pid == getpid() ? "mine" : "other");
	sigemptyset(&set);
	sigaddset(&set, signal);
	T(sigprocmask(SIG_BLOCK, &set, &was));
	raise(signal);
	raise(signal);
	printf("%s: blocked, caught %d\n", name, caught);
	T(sigpending(&was));
	printf("%s: pending %d\n", name, sigismember(&was, signal));
	sigprocmask(SIG_BLOCK, NULL, &was);
	printf("%s: in the mask %d\n", name, sigismember(&was, signal));
	T(sigprocmask(SIG_UNBLOCK, &set, NULL));
	printf("%s: unblocked, caught %d\n", name, caught);
	T(sigpending(&was));
	printf("%s: pending %d\n", name, sigismember(&was, signal));
	struct sigaction sa = { .sa_handler = SIG_IGN };
	sigaction(signal, &sa, NULL);
	raise(signal);
	pid_t p = fork();
	if (p == 0) {
		struct sigaction dfl = { .sa_handler = SIG_DFL };
		sigaction(signal, &dfl, NULL);
		raise(signal);
		_exit(1);
	}
	reap(name, p);
}

static void traced(void)
{
	long *answers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t p = fork();
	if (p == 0) {
		long expected = getppid();
		for (;;) {
			answers[0]++;
			if (syscall(SYS_getppid) != expected) answers[1]++;
			if (syscall(SYS_getuid) != (long)getuid()) answers[1]++;
		}
	}
	while (*(volatile long *)answers < 100) sched_yield();
	T(ptrace(PTRACE_SEIZE, p, 0, 0));
	int strange = 0, status;
	for (int i = 0; i < 3000; i++) {
		ptrace(PTRACE_INTERRUPT, p, 0, 0);
		if (waitpid(p, &status, 0) != p || !WIFSTOPPED(status) || status >> 16 != PTRACE_EVENT_STOP) strange++;
		ptrace(PTRACE_CONT, p, 0, 0);
	}
	printf("traced: %ld wrong, %d strange stops\n", answers[1], strange);
	kill(p, SIGKILL);
	reap("tracee", p);
}

static void *write_names(void *arg)
{
	for (int i = 0; i < 5000; i++)
		if (write(*(int *)arg, "name", 4) != 4) wrong++;
	stop = 1;
	return NULL;
}

/* Another thread writes to what this one has opened. */
static void written(void)
{
	int fd = open("/proc/thread-self/comm", O_WRONLY);
	pthread_t t;
	stop = 0;
	wrong = 0;
	pthread_create(&t, NULL, write_names, &fd);
	long slept = 0;
	while (!stop) {
		if (syscall(SYS_getppid) != parent) wrong++;
		struct timespec nap = { 0, 100000 };
		if (nanosleep(&nap, NULL)) wrong++;
		if (poll(NULL, 0, 1)) wrong++;
		slept++;
	}
	pthread_join(t, NULL);
	printf("written: %ld wrong, %s\n", wrong, slept ? "slept" : "never slept");
	close(fd);
}

int main(void)
{
	parent = getppid();
	ordinary(SIGSYS);
	ordinary(SIGSTKFLT);
	handle(SIGSYS, on);
	storm(SIGSYS);
	handle(SIGSTKFLT, on);
	storm(SIGSTKFLT);
	handle(SIGUSR1, on);
	storm(SIGUSR1);
	traced();
	written();
	return 0;
}
