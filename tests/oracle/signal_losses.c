/* oracle: user
 * Queued signals that must not be lost: across processes, across threads, to children that fork meanwhile. NOMINA_STORM is how
 * many of each; a short run is the default. */
#include "oracle.h"
#include <pthread.h>

static long count = 5000;
static volatile sig_atomic_t from_child, sum_low;
static volatile long sum;
static void on(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)u;
	from_child++;
	sum += si->si_value.sival_int;
}

/* Queues one, and waits where the queue is full. */
static void queue(pid_t to, int s, int value)
{
	while (sigqueue(to, s, (union sigval){ .sival_int = value }) == -1) {
		if (errno != EAGAIN) {
			printf("sigqueue: %s\n", name_of(errno));
			_exit(1);
		}
		usleep(100);
	}
}

static void *sender(void *arg)
{
	for (long i = 1; i <= count; i++) queue(getpid(), SIGRTMIN + 1, (int)(long)arg);
	return NULL;
}

static void handled(void)
{
	struct sigaction sa = { .sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESTART };
	sigaction(SIGRTMIN, &sa, NULL);
	pid_t me = getpid(), p[3];
	for (int i = 0; i < 3; i++) {
		p[i] = fork();
		if (p[i] == 0) {
			for (long n = 1; n <= count; n++) queue(me, SIGRTMIN, i + 1);
			_exit(0);
		}
	}
	/* Work meanwhile: system calls of every kind are interrupted. */
	int pi[2];
	char b[16];
	M(pipe(pi));
	for (int i = 0; i < 3;) {
		if (write(pi[1], "x", 1) != 1 || read(pi[0], b, 1) != 1) _exit(2);
		pid_t k = fork();
		if (k == 0) _exit(0);
		if (k > 0)
			while (waitpid(k, NULL, 0) == -1 && errno == EINTR)
				;
		getppid();
		access("/", F_OK);
		while (i < 3 && waitpid(p[i], NULL, WNOHANG) == p[i]) i++;
	}
	for (int i = 0; i < 2000 && from_child < 3 * count; i++) msleep(1);
	printf("handled: all %d, values right %d\n", from_child == 3 * count, sum == 6 * count);
}

static void taken_by_threads(void)
{
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &m, NULL);
	pthread_t t[3];
	for (long i = 0; i < 3; i++) pthread_create(&t[i], NULL, sender, (void *)(i + 1));
	long n = 0, values = 0;
	siginfo_t si;
	struct timespec second = { 5, 0 };
	while (n < 3 * count && sigtimedwait(&m, &si, &second) > 0) {
		n++;
		values += si.si_value.sival_int;
	}
	for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
	printf("taken: all %d, values right %d, none left %d\n", n == 3 * count, values == 6 * count,
	       sigtimedwait(&m, &si, &(struct timespec){ 0, 0 }) == -1);
}

/* A signal for each child, sent as soon as it exists: it ends it, whatever the child is doing. */
static void newborn(void)
{
	int right = 0;
	long n = count / 10;
	for (long i = 0; i < n; i++) {
		pid_t p = fork();
		if (p == 0)
			for (;;) getppid();
		kill(p, SIGUSR1);
		int st;
		while (waitpid(p, &st, 0) == -1 && errno == EINTR)
			;
		right += WIFSIGNALED(st) && WTERMSIG(st) == SIGUSR1;
	}
	printf("newborn: every one ended by its signal %d\n", right == n);
}

/* SIGCHLD is one however many: but after the last one no zombie may be left unseen. */
static volatile sig_atomic_t reaped;
static void child(int s)
{
	(void)s;
	while (waitpid(-1, NULL, WNOHANG) > 0) reaped++;
}
static void children(void)
{
	signal(SIGCHLD, child);
	long n = count / 10, made = 0;
	for (long i = 0; i < n; i++) {
		pid_t p = fork();
		if (p == 0) _exit(0);
		made += p > 0;
	}
	for (int i = 0; i < 5000 && reaped < made; i++) msleep(1);
	printf("children: all reaped by the handler %d\n", reaped == made);
}

int main(void)
{
	const char *size = getenv("NOMINA_STORM");
	if (size) {
		count = atol(size);
		alarm(0);
	}
	handled();
	taken_by_threads();
	newborn();
	children();
	return 0;
}
