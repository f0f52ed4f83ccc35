/* Every system call number with hostile arguments, many times, each number in a child of its own. */
#include "abuse.h"

static char *page; /* holds a path, a number pattern and random bytes */
static int fds[6];

static long pick(void)
{
	switch (rng() % 16) {
	case 0: return 0;
	case 1: return -1;
	case 2: return (long)page;
	case 3: return (long)page + 4096 - 8;
	case 4: return (long)page + 4095;
	case 5: return 0x7fffffff;
	case 6: return (long)0x8000000000000000ul;
	case 7: return SHIM_LOW + (rng() % 64) * 4096;
	case 8: return fds[rng() % 6];
	case 9: return rng() % 64;
	case 10: return (long)rng();
	case 11: return 4096;
	case 12: return (long)"/etc/passwd";
	case 13: return -100; /* AT_FDCWD */
	case 14: return 1 << (rng() % 31);
	default: return (long)0xffffffff81000000ul;
	}
}

static int harmful_to_the_test(long n)
{
	/* Calls that only end or stop the test itself: they reach nothing outside, which other programs show. */
	switch (n) {
	case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_rt_sigqueueinfo: case SYS_rt_tgsigqueueinfo:
	case SYS_reboot: case SYS_pidfd_send_signal: case SYS_exit: case SYS_exit_group: case SYS_pause:
	case SYS_fork: case SYS_vfork: case SYS_clone: case SYS_clone3:
		return 1;
	}
	return 0;
}

static void one(long n, int rounds)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0);
	struct rlimit small = { 1ul << 32, 1ul << 32 };
	setrlimit(RLIMIT_AS, &small);
	int null = open("/dev/null", O_RDWR);
	dup2(null, 0);
	dup2(null, 2);
	alarm(1);
	for (int i = 0; i < rounds; i++) {
		long a[6];
		for (int j = 0; j < 6; j++) a[j] = pick();
		/* A kill with a pid of our own choosing, including init and the whole world, but with signal 0 or an
		 * invalid one. */
		if (harmful_to_the_test(n)) {
			if (n == SYS_kill || n == SYS_tkill) a[1] = rng() % 2 ? 0 : 65 + rng() % 1000;
			else if (n == SYS_rt_sigqueueinfo) a[1] = 0;
			else if (n == SYS_tgkill || n == SYS_rt_tgsigqueueinfo) a[2] = 0;
			else if (n == SYS_pidfd_send_signal) a[1] = 0;
			else if (n == SYS_clone) a[0] = (rng() | 1 << 30) & ~0xfful; /* never a plain child */
			else return;
		}
		long r = raw6(n, a[0], a[1], a[2], a[3], a[4], a[5]);
		if (n == SYS_clone && r == 0) raw6(SYS_exit, 0, 0, 0, 0, 0, 0);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 ? atoi(argv[2]) : 24;
	int hung = 0, died = 0, fine = 0;
	page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(page + 4096, 4096);
	for (int i = 0; i < 4096; i++) page[i] = rng();
	strcpy(page, "../../../../etc/passwd");
	fds[0] = open("/", O_RDONLY | O_DIRECTORY);
	/* An earlier run may have made a FIFO of it, whose other end nobody opens. */
	fds[1] = open("/etc/passwd", O_RDONLY | O_NONBLOCK);
	int p[2], s[2];
	if (pipe(p) || socketpair(AF_UNIX, SOCK_STREAM, 0, s)) return 1;
	fds[2] = p[0];
	fds[3] = p[1];
	fds[4] = s[0];
	fds[5] = open("/dev/null", O_RDWR);
	signal(SIGPIPE, SIG_IGN);
	static long numbers[800];
	int count = 0;
	for (long n = 0; n <= 600; n++) numbers[count++] = n;
	long extra[] = { GATE, GATE + 1, 1000, 4095, 4096, 65535, 1 << 20, 0x3fffffff, 0x40000000, 0x40000000 + 1,
			 0x40000000 + 39, 0x40000000 + 257, 0x40000000 + 520, 0x40000000 + 545, 0x7fffffff, -1, -2, -4096,
			 (long)0x8000000000000001ul };
	for (unsigned i = 0; i < sizeof extra / sizeof *extra; i++) numbers[count++] = extra[i];
	for (int i = 0; i < count; i++) {
		rng_state = 88172645463325252ull + numbers[i] * 7919 + (argc > 3 ? atoi(argv[3]) : 0);
		pid_t c = fork();
		if (c == 0) one(numbers[i], rounds);
		int st = reap_within(c, 1500);
		if (st == -1) hung++;
		else if (WIFSIGNALED(st)) died++;
		else fine++;
		kill(-c, SIGKILL);
	}
	printf("%d numbers: %d returned, %d ended by a signal, %d blocked\n", count, fine, died, hung);
	return 0;
}
