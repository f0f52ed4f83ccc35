/* oracle: user
 * Calls made so often from one place that they may be served in other ways than the first: registers, flags, red zone and vector
 * registers survive, signals find the program as if at the call, threads and children go on, nothing of a file changes. */
#include "oracle.h"
#include <asm/prctl.h>
#include <pthread.h>
#include <setjmp.h>
#include <sys/prctl.h>
#include <ucontext.h>

#define MANY 300
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif

/* One call site with everything loaded; what is not as before counts as wrong. */
static uint64_t in[16][2] asm("vectors_in") __attribute__((used));
static uint64_t out[16][2] asm("vectors_out") __attribute__((used));
static int all_registers(long parent)
{
	uint64_t bad;
	for (int i = 0; i < 16; i++) in[i][0] = 0x1111111111111111ull * i, in[i][1] = ~in[i][0];
	uint64_t result, flags_before, flags_after;
	asm volatile(
		"lea vectors_in(%%rip), %%r11\n"
		".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups \\n*16(%%r11), %%xmm\\n\n .endr\n"
		"push %%rbp\n push %%rbx\n"
		"mov %%rsp, %%r15\n sub $256, %%rsp\n"
		"mov $0xb1, %%ebx\n mov $0xb2, %%ebp\n mov $0xb3, %%r12d\n mov $0xb4, %%r13d\n mov $0xb5, %%r14d\n"
		"mov $0xd1, %%edi\n mov $0xd2, %%esi\n mov $0xd3, %%edx\n mov $0xd4, %%r10d\n mov $0xd5, %%r8d\n mov $0xd6, %%r9d\n"
		"movq $0x5a5a, -8(%%rsp)\n movq $0x6b6b, -128(%%rsp)\n"
		/* overflow, sign, carry, parity and adjust all set in turn by this sum */
		"mov $0x7fffffff, %%eax\n add $0x7fffffff, %%eax\n stc\n"
		"pushfq\n pop %%r11\n mov %%r11, -64(%%rsp)\n movq $0x5a5a, -8(%%rsp)\n"
		"mov $110, %%eax\n syscall\n"
		"mov %%rsp, %%rcx\n"
		/* pushfq would overwrite the red zone: look first */
		"mov -8(%%rsp), %%r11\n"
		"pushfq\n"
		"cmp $0x5a5a, %%r11\n jne 1f\n"
		"cmpq $0x6b6b, -128(%%rcx)\n jne 1f\n"
		"lea 256(%%rcx), %%r11\n cmp %%r11, %%r15\n jne 1f\n"
		"cmp $0xb1, %%rbx\n jne 1f\n cmp $0xb2, %%rbp\n jne 1f\n cmp $0xb3, %%r12\n jne 1f\n"
		"cmp $0xb4, %%r13\n jne 1f\n cmp $0xb5, %%r14\n jne 1f\n cmp $0xd1, %%rdi\n jne 1f\n"
		"cmp $0xd2, %%rsi\n jne 1f\n cmp $0xd3, %%rdx\n jne 1f\n cmp $0xd4, %%r10\n jne 1f\n"
		"cmp $0xd5, %%r8\n jne 1f\n cmp $0xd6, %%r9\n jne 1f\n"
		"mov $0, %%edx\n jmp 2f\n"
		"1: mov $1, %%edx\n"
		"2: mov (%%rsp), %%rcx\n mov -64+8(%%rsp), %%rdi\n"
		"mov %%r15, %%rsp\n pop %%rbx\n pop %%rbp\n"
		"lea vectors_out(%%rip), %%r11\n"
		".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups %%xmm\\n, \\n*16(%%r11)\n .endr\n"
		: "=&a"(result), "=&d"(bad), "=&c"(flags_after), "=&D"(flags_before)
		:
		: "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
		  "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return bad || (long)result != parent || memcmp(in, out, sizeof in) || ((flags_before ^ flags_after) & 0xcd5);
}

static volatile sig_atomic_t ticks, nested_wrong;
static sigjmp_buf env;
static void spoil(int s)
{
	struct stat st;
	(void)s;
	ticks++;
	asm volatile("pcmpeqd %%xmm0, %%xmm0\n movaps %%xmm0, %%xmm7\n movaps %%xmm0, %%xmm15" ::: "xmm0", "xmm7", "xmm15");
	if (getppid() < 0 || stat("/", &st)) nested_wrong++;
}
static void jump(int s)
{
	ticks++;
	siglongjmp(env, s);
}
static void count(int s)
{
	(void)s;
	ticks++;
}
static void timer(int us)
{
	struct itimerval it = { { 0, us }, { 0, us } };
	setitimer(ITIMER_REAL, &it, NULL);
}
static void on(int s, void (*handler)(int), int flags)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = flags };
	sigaction(s, &sa, NULL);
}

static void *thread(void *p)
{
	long wrong = 0, tid = syscall(SYS_gettid);
	struct stat st;
	for (int i = 0; i < 4000; i++) {
		wrong += syscall(SYS_gettid) != tid;
		wrong += getppid() != *(long *)p;
		wrong += stat("/etc/passwd", &st) != 0 || !S_ISREG(st.st_mode);
		wrong += stat("/nothing", &st) != -1;
		int fd = open("/etc/passwd", O_RDONLY);
		char c = 0;
		wrong += read(fd, &c, 1) != 1;
		close(fd);
	}
	return (void *)wrong;
}
static void *endless(void *p)
{
	for (;;) {
		int fd = open(p, O_RDONLY);
		close(fd);
	}
	return NULL;
}

/* getppid as machine code in a file: f(); the second entry skips the first instruction. */
static const unsigned char code[16] = { 0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc };
static void mapped(const char *what, int flags, int prot, int offset, long parent)
{
	char page[4096], now[4096];
	memset(page, 0xcc, sizeof page);
	memcpy(page + offset, code, sizeof code);
	int fd = open("code", O_RDWR | O_CREAT | O_TRUNC, 0700);
	if (write(fd, page, sizeof page) != (ssize_t)sizeof page) perror("write");
	char *at = mmap(NULL, 4096, prot, flags, fd, 0);
	long wrong = at == MAP_FAILED;
	for (int i = 0; !wrong && i < MANY; i++) wrong += ((long (*)(void))(at + offset))() != parent;
	/* Straight to the instruction behind. */
	long r = 0;
	if (!wrong) asm volatile("call *%1" : "=a"(r) : "r"(at + offset + 5), "0"(110l) : "rcx", "r11", "memory");
	wrong += r != parent;
	if (pread(fd, now, sizeof now, 0) != (ssize_t)sizeof now) perror("pread");
	printf("%s at %d: wrong %ld, file %s\n", what, offset, wrong, memcmp(page, now, sizeof now) ? "changed" : "as it was");
	close(fd);
	munmap(at, 4096);
}

int main(void)
{
	struct stat st;
	long parent = getppid();
	int wrong = 0;

	puts("# registers");
	for (int i = 0; i < MANY; i++) wrong += all_registers(parent);
	printf("wrong %d\n", wrong);

	puts("# under a storm of signals");
	on(SIGALRM, spoil, SA_RESTART);
	timer(300);
	wrong = 0;
	while (ticks < 500) {
		wrong += all_registers(parent);
		wrong += stat("/etc/passwd", &st) != 0;
		wrong += stat("/nothing", &st) != -1 || errno != ENOENT;
	}
	timer(0);
	printf("wrong %d, in handlers %d\n", wrong, nested_wrong);

	puts("# jumping out of handlers");
	on(SIGALRM, jump, 0);
	ticks = 0;
	timer(400);
	if (sigsetjmp(env, 1) == 0 || ticks < 200)
		for (;;) wrong += getppid() != parent || stat("/", &st) != 0;
	timer(0);
	sigset_t now;
	sigprocmask(SIG_BLOCK, NULL, &now);
	printf("wrong %d, blocked %d\n", wrong, sigismember(&now, SIGALRM));

	puts("# handlers on an alternate stack");
	stack_t ss = { .ss_sp = malloc(65536), .ss_size = 65536 };
	sigaltstack(&ss, NULL);
	on(SIGALRM, spoil, SA_ONSTACK);
	ticks = 0;
	timer(300);
	while (ticks < 200) wrong += all_registers(parent);
	timer(0);
	printf("wrong %d, in handlers %d\n", wrong, nested_wrong);

	puts("# a signal to oneself has come when the call returns");
	on(SIGUSR1, count, 0);
	ticks = 0;
	for (int i = 1; i <= MANY; i++) wrong += kill(getpid(), SIGUSR1) != 0 || ticks != i;
	printf("wrong %d\n", wrong);

	puts("# with signals blocked");
	sigset_t all, old;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	ticks = 0;
	for (int i = 0; i < MANY; i++) {
		wrong += stat((char *)1, &st) != -1 || errno != EFAULT;
		wrong += stat("/", (struct stat *)8) != -1 || errno != EFAULT;
		wrong += getppid() != parent;
	}
	kill(getpid(), SIGUSR1);
	for (int i = 0; i < MANY; i++) wrong += stat("/", &st) != 0 || ticks != 0;
	sigprocmask(SIG_SETMASK, &old, NULL);
	for (int i = 0; i < MANY; i++) wrong += stat((char *)1, &st) != -1 || errno != EFAULT;
	printf("wrong %d, ticks %d\n", wrong, (int)ticks);

	puts("# children");
	for (int i = 0; i < 20; i++) {
		int status;
		long own = getpid();
		pid_t child = fork();
		if (child == 0) {
			int w = 0;
			for (int k = 0; k < 20; k++) w += getppid() != own || getpid() == own || stat("/", &st) != 0;
			_exit(w != 0);
		}
		waitpid(child, &status, 0);
		wrong += status;
		child = vfork();
		if (child == 0) {
			int w = 0;
			for (int k = 0; k < 20; k++) w += getppid() != own || stat("/", &st) != 0;
			_exit(w != 0);
		}
		waitpid(child, &status, 0);
		wrong += status || getppid() != parent;
	}
	printf("wrong %d\n", wrong);

	puts("# threads");
	pthread_t threads[4];
	for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, thread, &parent);
	for (int i = 0; i < 4; i++) {
		void *r;
		pthread_join(threads[i], &r);
		wrong += (long)r;
	}
	printf("wrong %d\n", wrong);
	for (int i = 0; i < 10; i++) {
		void *r;
		pthread_create(&threads[0], NULL, endless, i & 1 ? "/etc/passwd" : "/nothing");
		usleep(3000);
		pthread_cancel(threads[0]);
		pthread_join(threads[0], &r);
		wrong += r != PTHREAD_CANCELED;
	}
	printf("wrong %d\n", wrong);

	puts("# code in files");
	mapped("private", MAP_PRIVATE, PROT_READ | PROT_EXEC, 0, parent);
	mapped("private", MAP_PRIVATE, PROT_READ | PROT_EXEC, 3, parent);
	mapped("private", MAP_PRIVATE, PROT_READ | PROT_EXEC, 61, parent);
	mapped("shared", MAP_SHARED, PROT_READ | PROT_EXEC, 16, parent);
	mapped("shared and writable", MAP_SHARED, PROT_READ | PROT_WRITE | PROT_EXEC, 16, parent);
	mapped("private and writable", MAP_PRIVATE, PROT_READ | PROT_WRITE | PROT_EXEC, 32, parent);

	puts("# gs is the program's");
	static uint64_t words[600];
	words[1] = 0x77;
	T(syscall(SYS_arch_prctl, ARCH_SET_GS, words));
	uint64_t word;
	for (int i = 0; i < MANY; i++) {
		wrong += all_registers(parent);
		asm volatile("mov %%gs:8, %0" : "=r"(word));
		wrong += word != 0x77;
	}
	on(SIGALRM, spoil, 0);
	ticks = 0;
	timer(300);
	while (ticks < 50) wrong += all_registers(parent);
	timer(0);
	T(syscall(SYS_arch_prctl, ARCH_SET_GS, 0));
	for (int i = 0; i < MANY; i++) wrong += all_registers(parent);
	printf("wrong %d\n", wrong);

	puts("# where text cannot become writable");
	int status;
	pid_t child = fork();
	if (child == 0) {
		if (prctl(PR_SET_MDWE, 1, 0, 0, 0)) _exit(0);
		int w = 0;
		for (int i = 0; i < MANY; i++) w += access("/", F_OK) != 0;
		_exit(w != 0);
	}
	waitpid(child, &status, 0);
	printf("status %d\n", status);
	return wrong != 0;
}
