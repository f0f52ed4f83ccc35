/* Claims promised forks that it has not made, and writes over what was promised to it: nobody but itself gets wrong children. */
#include "abuse.h"

/* The last bytes of a slot: state, pid, token, borrowed slot, nothing. */
struct promised {
	uint32_t state;
	int32_t pid;
	uint64_t token;
	uint32_t slot, pad;
};
#define PROMISED 8

int main(int argc, char **argv)
{
	(void)argc, (void)argv;
	struct slot *slot = own_slots();
	if (!slot) {
		printf("cannot be tried\n");
		return 3;
	}
	struct promised *promised = (void *)((char *)slot + 16384 - PROMISED * sizeof *promised);
	int made = 0, seen = 0, odd = 0;
	for (int round = 0; round < 60; round++) {
		for (int i = 0; i < 4; i++) {
			pid_t c = fork();
			if (c == 0) _exit(7);
			if (c < 0) continue;
			made++;
			int st = reap_within(c, 2000);
			/* A token that was forged is nobody's: such a child ends at its first request, and this one makes none. */
			if (!WIFEXITED(st) || WEXITSTATUS(st) != 7) odd++;
		}
		for (int i = 0; i < PROMISED; i++) {
			if (promised[i].state == 1) seen++;
			switch (rng() % 4) {
			case 0: promised[i].state = 2; break;
			case 1: promised[i].token = rng(); break;
			case 2: promised[i].pid = (int)rng(); break;
			case 3: promised[i].slot = (uint32_t)rng() % 2000; break;
			}
			if (rng() % 3 == 0) promised[i].state = (uint32_t)rng();
		}
		if (rng() % 2) getppid();
		/* A child that makes a request with whatever it was given. */
		pid_t c = fork();
		if (c == 0) {
			getppid();
			_exit(0);
		}
		if (c > 0) reap_within(c, 2000);
	}
	printf("made %d, saw promises %d, odd %d\n", made, seen > 0, odd);
	if (!made) printf("ESCAPED: nothing was tried\n");
	return 0;
}
