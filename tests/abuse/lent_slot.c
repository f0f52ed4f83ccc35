/* A forked process asks for its first exec in its maker's region. A maker that gave up its privilege meanwhile writes there,
 * so that the child, which still has it, would run another program. */
#include "abuse.h"

#define EXEC 0x8002
#define SLOTS 6
#define ROUNDS 100
static const char wanted[] = "/bin/true", other[] = "/bin/kill"; /* the latter fails without arguments */

static void rewrite(struct slot *slots, volatile int *over)
{
	while (!*over)
		for (int i = 1; i < SLOTS; i++) {
			struct slot *slot = (void *)((char *)slots + i * 16384ul);
			if (slot->nr == EXEC) memcpy(slot->data, other, sizeof other - 1);
		}
}

/* What the child's program said. */
static int round_of(struct slot *slots, int drop)
{
	volatile int *flags = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	/* With the first request comes the region, where the region of who forked us was. */
	raw6(SYS_getppid, 0, 0, 0, 0, 0, 0);
	pid_t c = fork();
	if (c == 0) {
		close(2);
		while (!flags[0]) ;
		execl(wanted, "true", (char *)NULL);
		_exit(3);
	}
	if (drop && (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))) return -1;
	/* The stack is shared with nobody, the region with the child. */
	pid_t w = fork();
	if (w == 0) {
		/* A child of the maker has the same region, too, until it asks for something: it never does. */
		rewrite(slots, flags + 1);
		_exit(0);
	}
	flags[0] = 1;
	int st = 0;
	waitpid(c, &st, 0);
	flags[1] = 1;
	waitpid(w, NULL, 0);
	return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

int main(void)
{
	int changed[2] = { 0 }, failed = 0;
	struct slot *slots = own_slots();
	if (!slots) return 3;
	for (int i = 0; i < ROUNDS; i++)
		for (int drop = 0; drop < 2; drop++) {
			pid_t h = fork();
			if (h == 0) _exit(round_of(slots, drop) & 0xff);
			int st = reap_within(h, 5000);
			if (!WIFEXITED(st) || WEXITSTATUS(st) == 0xff) failed++;
			else if (WEXITSTATUS(st) != 0) changed[drop]++;
		}
	if (changed[1]) printf("ESCAPED: a maker without privilege chose what %d privileged children ran\n", changed[1]);
	if (failed) printf("%d rounds came to nothing\n", failed);
	printf("with the same credentials: %d of %d changed\n", changed[0], ROUNDS);
	return failed > ROUNDS;
}
