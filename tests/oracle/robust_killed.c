/* oracle: user
 * A robust mutex shared between processes whose holder ends: the kernel sets the owner died mark. */
#include "oracle.h"
#include <pthread.h>

static pthread_mutex_t *shm;

static void *hold(void *arg)
{
	(void)arg;
	pthread_mutex_lock(shm);
	for (;;) pause();
	return NULL;
}

static void take(const char *how)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += 3;
	int got = pthread_mutex_timedlock(shm, &t);
	printf("%s: %s\n", how, name_of(got));
	if (got == EOWNERDEAD) {
		pthread_mutex_consistent(shm);
		pthread_mutex_unlock(shm);
	}
}

#define HOLDER(how, body) do { \
	fflush(stdout); \
	pid_t c = fork(); \
	if (c == 0) { body; _exit(9); } \
	reap(how, c); \
	take(how); \
} while (0)

int main(void)
{
	shm = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(shm, &a);
	HOLDER("SIGKILL", { pthread_mutex_lock(shm); raise(SIGKILL); });
	HOLDER("abort", { pthread_mutex_lock(shm); abort(); });
	HOLDER("exit", { pthread_mutex_lock(shm); exit(0); });
	HOLDER("another thread holds it at exit", {
		pthread_t t;
		pthread_create(&t, NULL, hold, NULL);
		msleep(50);
		_exit(0);
	});
	HOLDER("fault", { pthread_mutex_lock(shm); *(volatile int *)8 = 1; });

	/* Killed from outside, while another waits. */
	int ready[2];
	M(pipe(ready));
	fflush(stdout);
	pid_t c = fork();
	if (c == 0) {
		pthread_t t;
		pthread_create(&t, NULL, hold, NULL);
		msleep(50);
		M(write(ready[1], "x", 1));
		for (;;) pause();
	}
	M(read(ready[0], &(char){0}, 1));
	pid_t k = fork();
	if (k == 0) { msleep(100); M(kill(c, SIGKILL)); _exit(0); }
	take("killed by another");
	reap("holder", c);
	reap("killer", k);
	fflush(stdout);
	c = fork();
	if (c == 0) {
		pthread_mutex_lock(shm);
		M(write(ready[1], "x", 1));
		for (;;) pause();
	}
	M(read(ready[0], &(char){0}, 1));
	M(kill(c, SIGTERM));
	reap("terminated", c);
	take("terminated");
	fflush(stdout);
	c = fork();
	if (c == 0) raise(SIGSTOP);
	int status;
	M(waitpid(c, &status, WUNTRACED));
	M(kill(c, SIGKILL));
	reap("stopped", c);
	return 0;
}
