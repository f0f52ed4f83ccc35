/* Takes O_NONBLOCK away from sockets while the supervisor connects them to a listener whose backlog is full: no worker of the
 * supervisor may stay blocked in the host's connect. */
#include "abuse.h"
#include <pthread.h>

static int sockets[16];
static void *flip(void *unused)
{
	(void)unused;
	for (;;)
		for (int i = 0; i < 16; i++) fcntl(sockets[i], F_SETFL, 0);
	return NULL;
}
static struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/tmp/full" };
static void *try(void *p)
{
	connect(*(int *)p, (void *)&address, sizeof address);
	return NULL;
}

int main(void)
{
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	unlink(address.sun_path);
	if (bind(l, (void *)&address, sizeof address) || listen(l, 0)) return 3;
	for (;;) {
		int s = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (connect(s, (void *)&address, sizeof address)) break;
	}
	pthread_t t;
	for (int i = 0; i < 16; i++) sockets[i] = socket(AF_UNIX, SOCK_STREAM, 0);
	pthread_create(&t, NULL, flip, NULL);
	for (int i = 0; i < 16; i++) pthread_create(&t, NULL, try, &sockets[i]);
	struct timespec a, b;
	long worst = 0;
	for (int i = 0; i < 100; i++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		getppid();
		clock_gettime(CLOCK_MONOTONIC, &b);
		long ms = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
		if (ms > worst) worst = ms;
		msleep(10);
	}
	if (worst > 3000) printf("ESCAPED: a request took %ld ms\n", worst);
	printf("worst %ld ms\n", worst);
	fflush(stdout);
	_exit(0);
}
