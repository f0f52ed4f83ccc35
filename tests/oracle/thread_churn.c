/* oracle: user
 * Threads that end while others begin: each opens files, and none loses a descriptor to another. */
#include "oracle.h"
#include <pthread.h>

#define ROUNDS 1500
#define AT_ONCE 4

static int failed;

static void *opens(void *arg)
{
	char name[32];
	snprintf(name, sizeof name, "f%ld", (long)arg % 8);
	for (int i = 0; i < 2; i++) {
		int fd = open(name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
		struct stat st;
		if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode))
			__atomic_add_fetch(&failed, 1, __ATOMIC_RELAXED);
		close(fd);
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[AT_ONCE];
	for (long i = 0; i < ROUNDS; i++) {
		if (i >= AT_ONCE)
			pthread_join(threads[i % AT_ONCE], NULL);
		pthread_create(&threads[i % AT_ONCE], NULL, opens, (void *)i);
	}
	for (int i = 0; i < AT_ONCE; i++)
		pthread_join(threads[(ROUNDS + i) % AT_ONCE], NULL);
	printf("failed: %d\n", failed);
	int lowest = M(open("/dev/null", O_RDONLY));
	printf("lowest free descriptor: %d\n", lowest);
	return 0;
}
