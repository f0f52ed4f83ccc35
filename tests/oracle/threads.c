/* oracle: user
 * pthreads: join, cancel, tgkill, robust and PI mutexes, process exit from a thread, main thread leaving first. */
#include "oracle.h"
#include <pthread.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int turn, total;
static __thread int local = 1;

static void *adder(void *arg)
{
	for (int i = 0; i < 1000; i++) {
		pthread_mutex_lock(&mutex);
		total++;
		pthread_mutex_unlock(&mutex);
	}
	local += (long)arg;
	return (void *)(long)local;
}

static void *ponger(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&mutex);
	for (int i = 0; i < 50; i++) {
		while (turn != 1) pthread_cond_wait(&cond, &mutex);
		turn = 0;
		pthread_cond_signal(&cond);
	}
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static int cleaned;
static void clean(void *arg) { cleaned = (int)(long)arg; }
static void *cancelled(void *arg)
{
	(void)arg;
	pthread_cleanup_push(clean, (void *)77L);
	for (;;) pause();
	pthread_cleanup_pop(0);
	return NULL;
}

static pthread_mutex_t robust;
static void *dies_holding(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&robust);
	return NULL;
}

static volatile pid_t handler_tid;
static void on_usr1(int s)
{
	(void)s;
	handler_tid = gettid();
}
static volatile int stop;
static volatile pid_t spinner_tid;
static void *spinner(void *arg)
{
	(void)arg;
	spinner_tid = gettid();
	while (!stop) msleep(1);
	return NULL;
}

static void *exits(void *arg)
{
	(void)arg;
	msleep(50);
	exit(21);
}
static void *outlives(void *arg)
{
	(void)arg;
	msleep(80);
	printf("last thread: pid is tid: %s\n", getpid() == gettid() ? "yes" : "no");
	_exit(22);
}
static void *execs(void *arg)
{
	(void)arg;
	execl("/bin/sh", "sh", "-c", "echo exec from a thread; test $PPID -gt 0; exit 23", NULL);
	return NULL;
}
static void *raises(void *arg)
{
	raise((int)(long)arg);
	return NULL;
}
static void *forks(void *arg)
{
	(void)arg;
	pid_t p = fork();
	if (p == 0) _exit(getpid() == gettid() ? 31 : 32);
	reap("fork in a thread", p);
	return NULL;
}

int main(void)
{
	pthread_t t[8];
	void *r;
	for (long i = 0; i < 8; i++) pthread_create(&t[i], NULL, adder, (void *)i);
	for (int i = 0; i < 8; i++) {
		pthread_join(t[i], &r);
		printf("thread %d returned %ld\n", i, (long)r);
	}
	printf("total %d, my local %d\n", total, local);

	pthread_create(&t[0], NULL, ponger, NULL);
	pthread_mutex_lock(&mutex);
	for (int i = 0; i < 50; i++) {
		turn = 1;
		pthread_cond_signal(&cond);
		while (turn != 0) pthread_cond_wait(&cond, &mutex);
	}
	pthread_mutex_unlock(&mutex);
	pthread_join(t[0], NULL);
	printf("ping pong done\n");

	pthread_create(&t[0], NULL, cancelled, NULL);
	msleep(20);
	printf("cancel %d\n", pthread_cancel(t[0]));
	pthread_join(t[0], &r);
	printf("cancelled: %s, cleaned %d\n", r == PTHREAD_CANCELED ? "yes" : "no", cleaned);

	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &a);
	pthread_create(&t[0], NULL, dies_holding, NULL);
	pthread_join(t[0], NULL);
	int e = pthread_mutex_lock(&robust);
	printf("robust: %s\n", name_of(e));
	if (e == EOWNERDEAD) pthread_mutex_consistent(&robust);
	pthread_mutex_unlock(&robust);
	printf("again: %s\n", name_of(pthread_mutex_lock(&robust)));
	pthread_mutex_unlock(&robust);

	pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	pthread_mutex_t pi;
	pthread_mutex_init(&pi, &a);
	printf("pi lock %s", name_of(pthread_mutex_lock(&pi)));
	printf(" unlock %s\n", name_of(pthread_mutex_unlock(&pi)));

	signal(SIGUSR1, on_usr1);
	pthread_create(&t[0], NULL, spinner, NULL);
	while (!spinner_tid) msleep(1);
	printf("pthread_kill %d\n", pthread_kill(t[0], SIGUSR1));
	for (int i = 0; i < 1000 && !handler_tid; i++) msleep(1);
	printf("ran in the thread: %s\n", handler_tid == spinner_tid ? "yes" : "no");
	handler_tid = 0;
	T(tgkill(getpid(), spinner_tid, SIGUSR1));
	for (int i = 0; i < 1000 && !handler_tid; i++) msleep(1);
	printf("ran in the thread: %s\n", handler_tid == spinner_tid ? "yes" : "no");
	T(tgkill(getpid(), 0, SIGUSR1));
	T(tgkill(getpid() + 100000, spinner_tid, SIGUSR1));
	T(tgkill(getpid(), spinner_tid, 0));
	T(tgkill(getpid(), spinner_tid, 65));
	stop = 1;
	pthread_join(t[0], NULL);
	T(tgkill(getpid(), spinner_tid, 0));

	pthread_create(&t[0], NULL, forks, NULL);
	pthread_join(t[0], NULL);
	CHILD("exit from a thread", { pthread_create(&t[0], NULL, exits, NULL); for (;;) pause(); });
	CHILD("main leaves first", { pthread_create(&t[0], NULL, outlives, NULL); syscall(SYS_exit, 1); });
	CHILD("pthread_exit of main", { pthread_create(&t[0], NULL, outlives, NULL); pthread_exit(NULL); });
	CHILD("exec from a thread", { pthread_create(&t[0], NULL, execs, NULL); for (;;) pause(); });
	CHILD("fatal raise in a thread", { pthread_create(&t[0], NULL, raises, (void *)(long)SIGTERM); for (;;) pause(); });
	CHILD("stack smash of many", {
		for (int i = 0; i < 200; i++) {
			if (pthread_create(&t[0], NULL, adder, (void *)0L)) _exit(9);
			pthread_join(t[0], NULL);
		}
	});
	CHILD("main execs beside threads", {
		stop = 0;
		for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, spinner, NULL);
		execl("/bin/sh", "sh", "-c", "ls /proc/self/task | wc -l; exit 24", NULL);
	});
	return 0;
}
