/* Shared by the abuse programs: guest code that means harm. Each prints lines starting with ESCAPED when it reached
 * what it must not reach; anything else it prints is for the person who reads a failure. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* These programs destroy what they can reach. Run on a host, as root even in a user namespace, they would spoil that
 * host: they refuse to start without the mark that e2e/abuse.py sets inside a sandbox, and outside one. */
static void __attribute__((constructor)) only_inside(void)
{
	char line[256] = "";
	FILE *f = fopen("/proc/1/cmdline", "r");
	size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
	int inside = memmem(line, n, "NOMINA_ABUSE", 12) != NULL;
	if (f) fclose(f);
	if (!inside || !getenv("NOMINA_ABUSE_INSIDE")) {
		fprintf(stderr, "refusing to run outside a sandbox of the test suite\n");
		_exit(98);
	}
}

/* Where the shim and its regions live. */
#define SHIM_LOW 0x7e9000000000ul
#define SHIM_HIGH 0x7ea000000000ul
/* The call number of the gate, and its third argument. */
#define GATE 274
#define GATE_MAGIC 0x4e6f6d696e612121

static inline long raw6(long n, long a, long b, long c, long d, long e, long f)
{
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return r;
}

static uint64_t rng_state = 88172645463325252ull;
static inline uint64_t rng(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state;
}

static inline void msleep(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	nanosleep(&t, NULL);
}

/* Waits for a child at most that long, then kills it. */
static inline int reap_within(pid_t p, int ms)
{
	int st = 0;
	for (int i = 0; i < ms; i += 2) {
		pid_t r = waitpid(p, &st, WNOHANG | __WALL);
		if (r == p || (r == -1 && errno == ECHILD)) return st;
		msleep(2);
	}
	kill(p, SIGKILL);
	waitpid(p, &st, __WALL);
	return -1;
}

/* Does a descriptor reach the host's secret? argv of every program: TOKEN [what to reach ...] */
static inline int holds_token(int fd, const char *token)
{
	char b[512];
	long n = pread(fd, b, sizeof b - 1, 0);
	if (n <= 0) return 0;
	b[n] = 0;
	return strstr(b, token) != NULL;
}

/* Runs of mapped pages between SHIM_LOW and SHIM_HIGH, found with mincore, which needs no /proc. */
struct run {
	uintptr_t start, end;
};
static inline int mapped_runs(struct run *out, int max)
{
	/* The range is 64 GiB: step by 2 MiB first, then by page where something was found or /proc/self/maps says so. */
	int n = 0;
	unsigned char v;
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	while (f && fgets(line, sizeof line, f) && n < max) {
		unsigned long a, b;
		if (sscanf(line, "%lx-%lx", &a, &b) == 2 && a >= SHIM_LOW && a < SHIM_HIGH) out[n++] = (struct run){ a, b };
	}
	if (f) fclose(f);
	for (uintptr_t base = SHIM_LOW; base < SHIM_HIGH && n < max; base += 1ul << 21) {
		/* Only the first GiB page by page, the rest by its first pages. */
		uintptr_t limit = base < SHIM_LOW + (1ul << 30) ? base + (1ul << 21) : base + 4096 * 2;
		for (uintptr_t p = base; p < limit && n < max; p += 4096) {
			int known = 0;
			for (int i = 0; i < n; i++)
				if (p >= out[i].start && p < out[i].end) {
					p = out[i].end - 4096;
					known = 1;
					break;
				}
			if (known) continue;
			if (mincore((void *)p, 4096, &v) == 0) {
				uintptr_t e = p + 4096;
				while (e < SHIM_HIGH && mincore((void *)e, 4096, &v) == 0) e += 4096;
				out[n++] = (struct run){ p, e };
				p = e - 4096;
			}
		}
	}
	return n;
}

static sigjmp_buf abuse_jump;
static inline void abuse_fault(int s)
{
	siglongjmp(abuse_jump, s);
}

/* A system call instruction in shim text, followed by a return: the guest may rewrite its own copy of the shim. 0: none. */
static inline uintptr_t shim_call_site(void)
{
	static struct run runs[512];
	int n = mapped_runs(runs, 512);
	uintptr_t site = 0;
	for (int i = 0; i < n && !site; i++)
		/* The text is below the first mebibyte. */
		for (uintptr_t p = runs[i].start; p + 2 < runs[i].end && p < SHIM_LOW + (1 << 20); p++)
			if (((unsigned char *)p)[0] == 0x0f && ((unsigned char *)p)[1] == 0x05) site = p;
	/* The instruction and the return behind it may lie on two pages; beyond the last one there is nothing. */
	uintptr_t page = site & ~4095ul, end = (site + 2) | 4095ul;
	if (!site || mprotect((void *)page, end + 1 - page, PROT_READ | PROT_WRITE | PROT_EXEC)) return 0;
	((unsigned char *)site)[2] = 0xc3;
	return site;
}

static inline long shim6(uintptr_t site, long n, long a, long b, long c, long d, long e, long f)
{
	long r;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("sub $256, %%rsp\n\tcall *%[site]\n\tadd $256, %%rsp"
			 : "=a"(r)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9), [site] "b"(site)
			 : "rcx", "r11", "memory");
	return r;
}

/* A thread's slot of the region: what the shim writes its requests into. */
struct slot {
	uint32_t channel, nfds, nr, flags;
	uint64_t args[6];
	int64_t ret;
	uint64_t out[7];
	char data[16384 - 128];
};

/* The first thread's slot. /proc does not show the region, but the shim's data points to it. */
static inline struct slot *own_slots(void)
{
	static struct run runs[512];
	int n = mapped_runs(runs, 512);
	for (int i = 0; i < n; i++)
		for (uintptr_t p = runs[i].start; p + 8 <= runs[i].end; p += 8) {
			unsigned char v;
			uintptr_t at = *(uintptr_t *)p;
			if (at % 4096 || at < 65536 || at >> 47 || (at >= SHIM_LOW && at < SHIM_HIGH)) continue;
			if (mincore((void *)at, 4096, &v) || mincore((void *)(at + (15 << 20)), 4096, &v)) continue;
			struct slot *slot = (void *)at;
			raw6(SYS_getppid, 0, 0, 0, 0, 0, 0);
			if (slot->nr != SYS_getppid) continue;
			raw6(SYS_getpgrp, 0, 0, 0, 0, 0, 0);
			if (slot->nr == SYS_getpgrp) return slot;
		}
	return NULL;
}
