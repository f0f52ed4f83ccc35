/* oracle: user
 * A robust mutex shared between processes whose holder is killed: the kernel sets the owner died mark. */
#include "oracle.h"
#include <pthread.h>

int main(void)
{
	pthread_mutex_t *shm = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(shm, &a);
	pid_t c = fork();
	if (c == 0) {
		pthread_mutex_lock(shm);
		raise(SIGKILL);
	}
	reap("holder", c);
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += 2;
	printf("robust shared: %s\n", name_of(pthread_mutex_timedlock(shm, &t)));
	return 0;
}
