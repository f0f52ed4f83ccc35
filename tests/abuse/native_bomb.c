/* Makes processes natively, from shim text, without asking for them: they have no number inside, and only native calls. */
#include "abuse.h"

int main(int argc, char **argv)
{
	uintptr_t site = shim_call_site();
	int seconds = argc > 1 ? atoi(argv[1]) : 2;
	if (!site) {
		printf("cannot be tried\n");
		return 3;
	}
	printf("bomb\n");
	fflush(stdout);
	long made = 0, failed = 0;
	time_t end = time(NULL) + seconds;
	while (time(NULL) < end) {
		long r = shim6(site, SYS_clone, SIGCHLD, 0, 0, 0, 0, 0);
		if (r == 0) continue; /* each goes on making more */
		if (r < 0) failed++;
		else made++;
		if (r < 0) poll(NULL, 0, 10);
	}
	/* All sleep, so that they can be counted. */
	for (;;) poll(NULL, 0, 1000);
	(void)made, (void)failed;
}
