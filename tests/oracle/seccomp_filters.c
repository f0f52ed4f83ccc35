/* oracle: user
 * Seccomp filters: what is accepted, what they see, how several combine, who has them, strict mode. */
#include "oracle.h"
#include "seccomp.h"
#include <dirent.h>
#include <pthread.h>
#include <spawn.h>

extern char **environ;

/* The result of a call that may be filtered. */
static const char *says(long r)
{
	static char b[4][32];
	static int n;
	char *to = b[n++ % 4];
	if (r == -1) snprintf(to, 32, "%s", name_of(errno));
	else snprintf(to, 32, "%s", r ? "a number" : "0");
	return to;
}

static void installing(void)
{
	PROGRAM(allow, RET(SECCOMP_RET_ALLOW));
	T(prctl(PR_GET_SECCOMP));
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, &allow));
	T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &allow));
	T(seccomp(SECCOMP_SET_MODE_FILTER, 1 << 20, &allow));
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, NULL));
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, (void *)1));
	no_new_privs();
	print_status("before");
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, NULL));
	T(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW, NULL));
	T(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH, NULL));
	struct sock_fprog none = { 1, NULL }, empty = { 0, allow_code }, far = { 4096, (void *)1 };
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, &none));
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, &empty));
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, &far));
	T(seccomp(SECCOMP_SET_MODE_STRICT, 1, NULL));
	T(seccomp(SECCOMP_SET_MODE_STRICT, 0, &allow));
	T(seccomp(17, 0, NULL));
	T(prctl(PR_SET_SECCOMP, 3, &allow));
	T(prctl(PR_SET_SECCOMP, 0, &allow));
	unsigned actions[] = { SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO, SECCOMP_RET_TRACE,
			       SECCOMP_RET_LOG, SECCOMP_RET_ALLOW, 0x10000, SECCOMP_RET_ERRNO | 1 };
	for (unsigned i = 0; i < sizeof actions / sizeof *actions; i++) {
		printf("%x ", actions[i]);
		T(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, &actions[i]));
	}
	T(seccomp(SECCOMP_GET_ACTION_AVAIL, 1, actions));
	T(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, NULL));
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, &allow));
	T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &allow));
	T(prctl(PR_GET_SECCOMP));
	print_status("after");
	T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
}

static void verifier(void)
{
	no_new_privs();
#define V(...)                                                                    \
	do {                                                                      \
		PROGRAM(p, __VA_ARGS__);                                          \
		printf("%s: %s\n", #__VA_ARGS__, says(seccomp(SECCOMP_SET_MODE_FILTER, 0, &p))); \
	} while (0)
	V(LD(0));
	V(LD(0), LD(0));
	V(LD(60), RET(0x7fff0000));
	V(LD(64), RET(0x7fff0000));
	V(LD(2), RET(0x7fff0000));
	V(BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_LDX | BPF_W | BPF_LEN, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), RET(0x7fff0000));
	V(BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 3), RET(0x7fff0000));
	V(BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), RET(0x7fff0000));
	V(BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 31), RET(0x7fff0000));
	V(BPF_STMT(BPF_ALU | BPF_NEG, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_LD | BPF_MEM, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_ST, 15), BPF_STMT(BPF_LD | BPF_MEM, 15), RET(0x7fff0000));
	V(BPF_STMT(BPF_ST, 16), RET(0x7fff0000));
	V(JEQ(0, 0, 1), BPF_STMT(BPF_ST, 1), BPF_STMT(BPF_LD | BPF_MEM, 1), RET(0x7fff0000));
	V(BPF_STMT(BPF_JMP | BPF_JA, 1), RET(0x7fff0000));
	V(BPF_STMT(BPF_JMP | BPF_JA, 0), RET(0x7fff0000));
	V(JEQ(0, 1, 0), RET(0x7fff0000));
	V(JEQ(0, 0, 1), RET(0x7fff0000));
	V(BPF_STMT(BPF_RET | BPF_X, 0));
	V(BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_MISC | BPF_TXA, 0), RET(0x7fff0000));
	V(BPF_STMT(0xffff, 0), RET(0x7fff0000));
	V(BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 0x7fff0000), BPF_STMT(BPF_RET | BPF_A, 0));
	static struct sock_filter many[4097];
	for (int i = 0; i < 4097; i++) many[i] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
	struct sock_fprog longest = { 2500, many }, long_one = { 4097, many };
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, &longest));
	T(seccomp(SECCOMP_SET_MODE_FILTER, 0, &long_one));
	/* The task's own limit: no more room at some time, whatever the host has beside. */
	int n = 0;
	while (n < 100 && !seccomp(SECCOMP_SET_MODE_FILTER, 0, &longest)) n++;
	printf("many long ones: %s, %s\n", n > 2 && n < 10 ? "some" : "a strange number", name_of(errno));
}

/* Arguments: what a filter says of call nr by the low and high words of an argument. */
static void arguments(void)
{
	no_new_privs();
	PROGRAM(p, LD(ARCH), JEQ(AUDIT_ARCH_X86_64, 1, 0), RET(SECCOMP_RET_KILL_PROCESS), LD(NR), JEQ(SYS_lseek, 3, 0), JEQ(SYS_getpgid, 2, 0),
		JEQ(SYS_getcwd, 1, 0), RET(SECCOMP_RET_ALLOW), LD(ARG(1) + 4), JEQ(7, 0, 3), LD(ARG(0)), JEQ(5, 0, 1), RET(SECCOMP_RET_ERRNO | 99),
		LD(ARG(5)), JEQ(6, 0, 1), RET(SECCOMP_RET_ERRNO | 98), RET(SECCOMP_RET_ERRNO | 97));
	M(seccomp(SECCOMP_SET_MODE_FILTER, 0, &p));
	int nr[] = { SYS_lseek, SYS_getpgid, SYS_getcwd };
	for (int i = 0; i < 3; i++) {
		printf("%d: ", nr[i]);
		printf("%s ", says(syscall(nr[i], 5, 7l << 32, 0, 0, 0, 0)));
		printf("%s ", says(syscall(nr[i], 5l | 1l << 40, 7l << 32 | 9, 0, 0, 0, 0)));
		printf("%s ", says(syscall(nr[i], 4, 7l << 32, 0, 0, 0, 6)));
		printf("%s\n", says(syscall(nr[i], 5, 8l << 32, 0, 0, 0, 1)));
	}
}

static void combining(void)
{
	unsigned order[] = { SECCOMP_RET_ALLOW, SECCOMP_RET_LOG, SECCOMP_RET_TRACE | 3, SECCOMP_RET_ERRNO | 40, SECCOMP_RET_ERRNO | 41 };
	no_new_privs();
	for (unsigned i = 0; i < 5; i++) {
		M(on(SYS_getppid, order[i]));
		M(on(SYS_lseek, order[i]));
		printf("after %x: ", order[i]);
		printf("%s ", says(syscall(SYS_getppid)));
		printf("%s\n", says(syscall(SYS_lseek, -1, 0, 0)));
	}
	for (int i = 4; i >= 0; i--) {
		M(on(SYS_getppid, order[i]));
		M(on(SYS_lseek, order[i]));
	}
	printf("and back: %s ", says(syscall(SYS_getppid)));
	printf("%s\n", says(syscall(SYS_lseek, -1, 0, 0)));
	print_status("combined");
	/* Filters that forbid filters. */
	M(on(SYS_seccomp, SECCOMP_RET_ERRNO | EPERM));
	T(on(SYS_getuid, SECCOMP_RET_ERRNO | 1));
	PROGRAM(allow, RET(SECCOMP_RET_ALLOW));
	T(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &allow));
	M(on(SYS_prctl, SECCOMP_RET_ERRNO | EPERM) == -1 ? 0 : -1);
}

static void *in_thread(void *arg)
{
	(void)arg;
	printf("thread: %s ", says(syscall(SYS_getpgid, 0)));
	printf("%s\n", says(syscall(SYS_lseek, -1, 0, 0)));
	return NULL;
}

static void inheriting(void)
{
	no_new_privs();
	M(on(SYS_getpgid, SECCOMP_RET_ERRNO | 50));
	M(on(SYS_lseek, SECCOMP_RET_ERRNO | 51));
	CHILD("child", {
		printf("child: %s ", says(syscall(SYS_getpgid, 0)));
		printf("%s\n", says(syscall(SYS_lseek, -1, 0, 0)));
		M(on(SYS_getuid, SECCOMP_RET_ERRNO | 52));
		printf("child: %s\n", says(syscall(SYS_getuid)));
		print_status("child");
	});
	printf("parent: %s\n", says(syscall(SYS_getuid)));
	pthread_t t;
	M(-pthread_create(&t, NULL, in_thread, NULL));
	pthread_join(t, NULL);
	if (vfork() == 0) {
		syscall(SYS_getpgid, 0);
		_exit(errno);
	}
	int st;
	wait(&st);
	printf("vfork child: %s\n", status_text(st));
	fflush(stdout);
	pid_t p;
	char *argv[] = { "sh", "-c", "grep '^Seccomp' /proc/self/status; mkdir newdir && echo made; ls -d newdir; rmdir newdir", NULL };
	M(on(SYS_mkdir, SECCOMP_RET_ERRNO | EXDEV));
	M(on(SYS_mkdirat, SECCOMP_RET_ERRNO | EXDEV));
	M(-posix_spawn(&p, "/bin/sh", NULL, NULL, argv, environ));
	reap("sh", p);
	CHILD("no exec", { M(on(SYS_execve, SECCOMP_RET_ERRNO | ENOTTY)); T(execl("/bin/true", "true", NULL)); });
	CHILD("no fork", {
		M(on(SYS_clone, SECCOMP_RET_ERRNO | ENOTTY));
		T(fork());
		T(syscall(SYS_fork) == 0 ? (_exit(3), 0) : 1);
		wait(NULL);
	});
	CHILD("killed by exec's child", { M(on(SYS_getcwd, SECCOMP_RET_KILL_PROCESS)); execl("/bin/sh", "sh", "-c", "/bin/pwd; echo $?", NULL); });
}

static pthread_barrier_t barrier;
static int other_tid;
static void *waits(void *arg)
{
	other_tid = gettid();
	if (arg) M(on(SYS_getuid, SECCOMP_RET_ERRNO | 60));
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	printf("%s: %s ", arg ? "with a filter" : "without", says(syscall(SYS_getpgid, 0)));
	printf("%s %d\n", says(syscall(SYS_lseek, -1, 0, 0)), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	return NULL;
}

static void synchronising(int diverged)
{
	pthread_t t;
	pthread_barrier_init(&barrier, NULL, 2);
	if (diverged) no_new_privs();
	M(-pthread_create(&t, NULL, waits, diverged ? "" : NULL));
	pthread_barrier_wait(&barrier);
	no_new_privs();
	PROGRAM(p, LD(NR), JEQ(SYS_getpgid, 1, 0), JEQ(SYS_lseek, 0, 1), RET(SECCOMP_RET_ERRNO | 61), RET(SECCOMP_RET_ALLOW));
	long r = seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &p);
	printf("synchronised: %s\n", r > 0 ? r == other_tid ? "the other thread's number" : "a number" : says(r));
	if (diverged) T(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH, &p));
	pthread_barrier_wait(&barrier);
	pthread_join(t, NULL);
	print_status("main");
}

static void *killed(void *arg)
{
	M(on(SYS_getuid, SECCOMP_RET_ERRNO | 1));
	syscall(*(int *)arg, -1, 0, 0);
	printf("alive\n");
	return NULL;
}

static void killing(int nr, unsigned action)
{
	pthread_t t;
	no_new_privs();
	M(on(nr, action));
	M(-pthread_create(&t, NULL, killed, &nr));
	pthread_join(t, NULL);
	printf("the other thread lives on\n");
	/* It is gone, and does not count when filters are synchronised. */
	int threads = 0;
	for (int i = 0; i < 200 && threads != 1; i++, msleep(5)) {
		DIR *d = opendir("/proc/self/task");
		for (threads = 0; d && readdir(d); threads++) ;
		threads -= 2;
		closedir(d);
	}
	printf("%d thread\n", threads);
	PROGRAM(p, RET(SECCOMP_RET_ALLOW));
	T(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &p));
}

static void strict(int what)
{
	/* The library's exit is exit_group(2), which strict mode does not allow. */
	int fds[2];
	M(pipe(fds));
	fflush(stdout);
	M(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	char c = 'x';
	if (syscall(SYS_write, fds[1], &c, 1) != 1 || syscall(SYS_read, fds[0], &c, 1) != 1) syscall(SYS_exit, 9);
	static const int then[] = { SYS_exit, SYS_exit_group, SYS_getpid, SYS_lseek, SYS_prctl, SYS_uname };
	syscall(then[what], 5, 0, 0);
	syscall(SYS_exit, 8);
}

static int pipe_fds[2];
static void alarmed(int s)
{
	(void)s;
	syscall(SYS_write, 1, "handled\n", 8);
	syscall(SYS_write, pipe_fds[1], "", 1);
}

static void strict_signal(void)
{
	struct itimerval soon = { .it_value = { 0, 50000 } };
	char c;
	signal(SIGALRM, alarmed);
	M(pipe(pipe_fds));
	M(setitimer(ITIMER_REAL, &soon, NULL));
	M(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	/* Is interrupted by the handler, and goes on. */
	syscall(SYS_exit, syscall(SYS_read, pipe_fds[0], &c, 1) == 1 ? 6 : 7);
}

int main(void)
{
	CHILD("installing", installing());
	CHILD("verifier", verifier());
	CHILD("arguments", arguments());
	CHILD("combining", combining());
	CHILD("inheriting", inheriting());
	CHILD("synchronising", synchronising(0));
	CHILD("synchronising a thread with filters", synchronising(1));
	CHILD("killing a thread, native", killing(SYS_lseek, SECCOMP_RET_KILL_THREAD));
	CHILD("killing a thread, served", killing(SYS_getppid, SECCOMP_RET_KILL_THREAD));
	CHILD("killing a process, native", killing(SYS_lseek, SECCOMP_RET_KILL_PROCESS));
	CHILD("killing a process, served", killing(SYS_getppid, SECCOMP_RET_KILL_PROCESS));
	for (int i = 0; i < 6; i++) CHILD("strict", strict(i));
	CHILD("a signal in strict mode", strict_signal());
	return 0;
}
