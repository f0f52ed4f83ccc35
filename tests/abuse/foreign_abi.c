/* int 0x80 and the x32 numbers reach another system call table: both must be refused or end the caller. */
#include "abuse.h"

static long int80(long n, long a, long b, long c)
{
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	return r;
}

int main(int argc, char **argv)
{
	const char *token = argv[1], *secret = argv[2];
	(void)argc;
	/* A path below 4 GiB, as the 32-bit table needs. */
	char *low = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	strcpy(low, secret);
	const char *what[] = { "i386 open", "i386 getpid", "i386 unlink", "x32 open", "x32 getpid", "x32 execve", "x32 ptrace" };
	for (int k = 0; k < 7; k++) {
		pid_t c = fork();
		if (c == 0) {
			long r = -1;
			switch (k) {
			case 0: r = int80(5, (long)low, 0, 0); break;
			case 1: r = int80(20, 0, 0, 0); break;
			case 2: r = int80(10, (long)low, 0, 0); break;
			case 3: r = raw6(0x40000000 + 2, (long)low, 0, 0, 0, 0, 0); break;
			case 4: r = raw6(0x40000000 + 39, 0, 0, 0, 0, 0, 0); break;
			case 5: r = raw6(0x40000000 + 520, (long)"/bin/true", 0, 0, 0, 0, 0); break;
			case 6: r = raw6(0x40000000 + 521, 0, 0, 0, 0, 0, 0); break;
			}
			printf("%s: returned %ld\n", what[k], r);
			if (r >= 0 && k != 1 && k != 4) {
				if (r > 2 && holds_token(r, token)) printf("ESCAPED: read the secret by %s\n", what[k]);
				else printf("ESCAPED: %s was answered\n", what[k]);
			}
			if ((k == 1 || k == 4) && r > 0) printf("ESCAPED: %s was answered with %ld\n", what[k], r);
			_exit(0);
		}
		int st = reap_within(c, 2000);
		if (st != -1 && WIFSIGNALED(st)) printf("%s: ended by signal %d\n", what[k], WTERMSIG(st));
	}
	return 0;
}
