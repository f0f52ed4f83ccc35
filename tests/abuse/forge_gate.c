/* Calls the gate directly, with random numbers and with words that look like requests. */
#include "abuse.h"

int main(int argc, char **argv)
{
	if (argc < 3) return 2;
	static char page[65536];
	int answered = 0;
	for (int round = 0; round < 400; round++) {
		pid_t c = fork();
		if (c == 0) {
			alarm(1);
			rng_state += round * 104729;
			for (int i = 0; i < 200; i++) {
				for (unsigned k = 0; k < sizeof page; k += 8) *(uint64_t *)(page + k) = rng() % (i % 2 ? 512 : ~0ull);
				strcpy(page + rng() % 1000, argv[2]);
				long a[6];
				for (int k = 0; k < 6; k++)
					switch (rng() % 6) {
					case 0: a[k] = rng() % 512; break;
					case 1: a[k] = (long)page + rng() % 4096; break;
					case 2: a[k] = (long)rng(); break;
					case 3: a[k] = SHIM_LOW + rng() % (1 << 24); break;
					case 4: a[k] = -1 - (long)(rng() % 4); break;
					default: a[k] = 0;
					}
				long r = raw6(GATE, a[0], a[1], rng() % 8 ? GATE_MAGIC : a[2], a[3], a[4], a[5]);
				if (r >= 0) answered++;
				if (r > 2 && r < 1024 && holds_token(r, argv[1])) printf("ESCAPED: a forged request opened the secret\n");
			}
			for (int fd = 3; fd < 256; fd++)
				if (holds_token(fd, argv[1])) printf("ESCAPED: a forged request left the secret open\n");
			_exit(0);
		}
		reap_within(c, 1500);
	}
	printf("forged\n");
	return 0;
}
