/* Writes over every writable page of the shim's range while other threads make requests: the supervisor reads those
 * pages and must neither trust them twice nor fall over. The guest may well die of it. */
#include "abuse.h"
#include <pthread.h>

static struct run runs[512];
static int n;
static volatile int stop;

static void *flip(void *arg)
{
	uint64_t s = (uintptr_t)arg * 0x9e3779b97f4a7c15ull + 1;
	/* Each write is tried by process_vm-free means: a fault ends the child, which the parent starts anew. */
	while (!stop)
		for (int i = 0; i < n && !stop; i++)
			for (uintptr_t p = runs[i].start; p < runs[i].end; p += 64) {
				s ^= s << 13;
				s ^= s >> 7;
				s ^= s << 17;
				*(volatile uint64_t *)(p + (s & 56)) = s;
			}
	return NULL;
}
static void *ask(void *arg)
{
	char b[64];
	struct stat st;
	const char *secret = arg;
	while (!stop) {
		stat("/etc/passwd", &st);
		int fd = open(secret, O_RDONLY);
		if (fd >= 0) close(fd);
		fd = open("/etc/passwd", O_RDONLY);
		if (fd >= 0) close(fd);
		if (readlink("/proc/self/exe", b, sizeof b) < 0) b[0] = 0;
	}
	return NULL;
}

/* Writable runs only: a child tries each one and dies on the others. */
static int writable(uintptr_t p)
{
	pid_t c = fork();
	if (c == 0) {
		signal(SIGSEGV, SIG_DFL);
		volatile uint64_t *q = (void *)p;
		uint64_t v = *q;
		*q = v;
		syscall(SYS_exit, 0);
	}
	int st = reap_within(c, 1000);
	return st != -1 && WIFEXITED(st);
}

int main(int argc, char **argv)
{
	if (argc < 3) return 2;
	struct run all[512];
	int m = mapped_runs(all, 512);
	for (int i = 0; i < m; i++)
		for (uintptr_t p = all[i].start; p < all[i].end && n < 512; p += 4096 * 16)
			if (writable(p)) {
				runs[n++] = (struct run){ p, p + 4096 * 16 < all[i].end ? p + 4096 * 16 : all[i].end };
			}
	printf("%d mapped runs, %d writable pieces\n", m, n);
	for (int round = 0; round < 40; round++) {
		pid_t c = fork();
		if (c == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			pthread_t t[4];
			/* Each round spoils one piece, every fourth all of them. */
			if (round % 4 && n) {
				runs[0] = runs[round % n];
				n = 1;
			}
			pthread_create(&t[0], NULL, ask, argv[2]);
			pthread_create(&t[1], NULL, ask, argv[2]);
			pthread_create(&t[2], NULL, flip, (void *)(uintptr_t)(round + 1));
			msleep(200);
			_exit(0);
		}
		reap_within(c, 400);
	}
	printf("flipped\n");
	return 0;
}
