/* oracle: user
 * More of everything than any table behind it has room for at a time: none of it may be left over. */
#include "oracle.h"
#include <pthread.h>
#include <sys/prctl.h>

static void *nothing(void *arg)
{
	return arg;
}

/* Children that end before they have asked for anything. */
static void forks(int count)
{
	int good = 0;
	for (int i = 0; i < count; i++) {
		pid_t p = fork();
		if (p == 0) _exit(i & 127);
		int st = 0;
		if (p > 0 && waitpid(p, &st, 0) == p && WIFEXITED(st) && WEXITSTATUS(st) == (i & 127)) good++;
	}
	printf("good: %d\n", good);
}

/* As a function of its own: a vfork child must not return from the frame it shares. */
static void vforks(int count)
{
	int good = 0;
	for (int i = 0; i < count; i++) {
		pid_t p = vfork();
		if (p == 0) _exit(i & 127);
		int st = 0;
		if (p > 0 && waitpid(p, &st, 0) == p && WIFEXITED(st) && WEXITSTATUS(st) == (i & 127)) good++;
	}
	printf("good vforks: %d\n", good);
}

int main(void)
{
	forks(1500);
	vforks(1500);
	int good = 0;
	for (long i = 0; i < 1500; i++) {
		pthread_t t;
		void *r;
		if (pthread_create(&t, NULL, nothing, (void *)i) == 0 && pthread_join(t, &r) == 0 && (long)r == i) good++;
	}
	printf("good threads: %d\n", good);
	/* A subreaper waits for the grandchildren that its silent children leave behind. */
	M(prctl(PR_SET_CHILD_SUBREAPER, 1));
	for (int i = 0; i < 100; i++) {
		if (fork() == 0) {
			for (int k = 0; k < 3; k++)
				if (fork() == 0) _exit(9);
			_exit(8);
		}
	}
	int children = 0, grandchildren = 0, others = 0, st;
	while (wait(&st) > 0) {
		if (st == 8 << 8) children++;
		else if (st == 9 << 8) grandchildren++;
		else others++;
	}
	printf("children %d, grandchildren %d, others %d, then %s\n", children, grandchildren, others, name_of(errno));
	/* Nobody waits for these. */
	signal(SIGCHLD, SIG_IGN);
	good = 0;
	for (int i = 0; i < 300; i++) {
		pid_t p = fork();
		if (p == 0) _exit(0);
		good += p > 0;
	}
	printf("made %d, wait: %s\n", good, wait(&st) == -1 ? name_of(errno) : "a child");
	return 0;
}
