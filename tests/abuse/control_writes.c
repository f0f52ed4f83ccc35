/* Writes to control files from everywhere at once: threads and forked children share the handles, close each other's, and
 * write while the opener is in other calls. The supervisor lives, other calls return what they should, and every write that the
 * opener makes itself fails or succeeds as it must. */
#include "abuse.h"
#include <pthread.h>

static int shared;

static void broken(const char *what)
{
	printf("BROKEN: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *churn(void *arg)
{
	(void)arg;
	for (int i = 0; i < 300; i++) {
		int fd = open("/proc/self/oom_score_adj", O_WRONLY);
		if (fd < 0)
			continue;
		if (write(fd, "bad", 3) != -1 || errno != EINVAL)
			broken("a refused write looked like a success");
		if (write(shared, "name", 4) != 4)
			broken("a write by another thread than the opener was not taken");
		if (getppid() <= 0)
			broken("another call got the result of a write");
		close(fd);
	}
	return NULL;
}

int main(void)
{
	shared = open("/proc/self/comm", O_WRONLY);
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, churn, NULL);
	for (int i = 0; i < 20; i++)
		if (fork() == 0) {
			char big[70000];
			memset(big, 'x', sizeof big);
			for (int j = 0; j < 50; j++) {
				write(shared, big, j % 2 ? sizeof big : j);
				write(shared, "", 0);
			}
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	return 0;
}
