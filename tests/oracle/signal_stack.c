/* oracle: user
 * Alternate stacks, faults, jumping out of handlers, registers after a handler. */
#include "oracle.h"
#include <setjmp.h>
#include <ucontext.h>

static char *alt;
static const size_t alt_size = 65536;
static sigjmp_buf env;
static int on_alt(void *p) { return (char *)p >= alt && (char *)p < alt + alt_size; }

static void where(int s)
{
	int here;
	stack_t ss;
	sigaltstack(NULL, &ss);
	printf("%s on alternate stack: %d, SS_ONSTACK %d, size %s\n", sigabbrev_np(s), on_alt(&here),
	       (ss.ss_flags & SS_ONSTACK) != 0, ss.ss_size == alt_size ? "right" : "other");
	if (s == SIGUSR1) {
		stack_t other = { .ss_sp = alt, .ss_size = alt_size };
		T(sigaltstack(&other, NULL));
		raise(SIGUSR2);
	}
}
static void *fault_at;
static void fault(int s, siginfo_t *si, void *u)
{
	ucontext_t *uc = u;
	(void)uc;
	printf("%s: code %d addr %s\n", sigabbrev_np(s), si->si_code, si->si_addr == fault_at ? "right" : "wrong");
	siglongjmp(env, 1);
}
static void skip(int s, siginfo_t *si, void *u)
{
	ucontext_t *uc = u;
	(void)si;
	printf("%s: skipping ud2\n", sigabbrev_np(s));
	uc->uc_mcontext.gregs[REG_RIP] += 2;
}
static void fix(int s, siginfo_t *si, void *u)
{
	(void)u;
	(void)s;
	mprotect((void *)((uintptr_t)si->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
}
static volatile int ticks;
static void tick(int s)
{
	(void)s;
	ticks++;
	/* Spoil vector registers: the frame must restore them. */
	double x = ticks;
	for (int i = 0; i < 50; i++) x = x * 1.0001 + i;
	if (x < 0) printf("no\n");
}
static int deep(int n)
{
	volatile char pad[4096];
	pad[0] = n;
	return n > 1000000 ? pad[0] : deep(n + 1) + pad[0];
}

int main(void)
{
	alt = mmap(NULL, alt_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t ss = { .ss_sp = alt, .ss_size = alt_size }, old;
	T(sigaltstack(NULL, &old));
	printf("before: flags %d\n", old.ss_flags);
	T(sigaltstack(&ss, NULL));
	struct sigaction sa = { .sa_handler = where, .sa_flags = SA_ONSTACK };
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
	raise(SIGUSR1);
	sa.sa_flags = 0;
	sigaction(SIGUSR1, &sa, NULL);
	raise(SIGUSR1);
	ss.ss_size = 100;
	T(sigaltstack(&ss, NULL));
	ss.ss_size = alt_size;
	ss.ss_flags = 0x40;
	T(sigaltstack(&ss, NULL));
	CHILD("fork keeps it", { sigaltstack(NULL, &old); printf("sp %d\n", old.ss_sp == alt); });
	ss.ss_flags = SS_DISABLE;
	T(sigaltstack(&ss, NULL));
	sigaltstack(NULL, &old);
	printf("disabled: %d\n", old.ss_flags == SS_DISABLE);
	ss.ss_flags = 0;
	sigaltstack(&ss, NULL);

	sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sa.sa_sigaction = fault;
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGFPE, &sa, NULL);
	for (int i = 0; i < 3; i++) {
		fault_at = (void *)(uintptr_t)(16 + i);
		if (!sigsetjmp(env, 1)) *(volatile char *)fault_at = 1;
		else printf("recovered %d\n", i);
	}
	fault_at = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!sigsetjmp(env, 1)) *(volatile char *)fault_at = 1;
	else printf("recovered from read-only\n");
	int fd = M(open("short", O_RDWR | O_CREAT, 0600));
	fault_at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (!sigsetjmp(env, 1)) printf("%d\n", *(volatile char *)fault_at);
	else printf("recovered from beyond the end of a file\n");
	CHILD("stack overflow is handled on the alternate stack", {
		struct rlimit small = { 1 << 20, 1 << 20 };
		setrlimit(RLIMIT_STACK, &small);
		sa.sa_sigaction = fault;
		if (!sigsetjmp(env, 1)) deep(0);
		else printf("recovered from overflow\n");
	} );
	sa.sa_sigaction = skip;
	sigaction(SIGILL, &sa, NULL);
	__asm__ volatile("ud2");
	printf("after ud2\n");
	sa.sa_sigaction = fix;
	sa.sa_flags = SA_SIGINFO;
	sigaction(SIGSEGV, &sa, NULL);
	char *m = mmap(NULL, 4096 * 64, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < 64; i++) m[i * 4096] = i;
	int sum = 0;
	for (int i = 0; i < 64; i++) sum += m[i * 4096];
	printf("faulted in %d\n", sum);
	CHILD("SEGV blocked is fatal", {
		sigset_t b;
		sigemptyset(&b);
		sigaddset(&b, SIGSEGV);
		sigprocmask(SIG_BLOCK, &b, NULL);
		struct rlimit z = { 0, 0 };
		setrlimit(RLIMIT_CORE, &z);
		*(volatile char *)8 = 1;
	});
	/* A fast timer must not disturb a computation, nor system calls that names go through. */
	signal(SIGALRM, tick);
	struct itimerval it = { { 0, 500 }, { 0, 500 } };
	setitimer(ITIMER_REAL, &it, NULL);
	double acc = 0;
	int errors = 0;
	for (int i = 0; i < 20000; i++) {
		struct stat st;
		acc += i * 0.5;
		if (stat("short", &st) || st.st_size != 0) errors++;
		if (stat("missing", &st) != -1 || errno != ENOENT) errors++;
	}
	it.it_value.tv_usec = it.it_interval.tv_usec = 0;
	setitimer(ITIMER_REAL, &it, NULL);
	printf("sum %.1f, errors %d, ticked %d\n", acc, errors, ticks > 5);
	return 0;
}
