/* oracle: user
 * What a handler learns, for every kind of sender; faults with their codes and addresses. */
#include "oracle.h"
#include <pthread.h>
#include <setjmp.h>
#include <sys/prctl.h>
#include <ucontext.h>

static siginfo_t last;
static volatile sig_atomic_t got;
static void on(int s, siginfo_t *si, void *u)
{
	(void)u;
	last = *si;
	last.si_signo = s;
	got++;
}
static sigjmp_buf back;
static void fault(int s, siginfo_t *si, void *u)
{
	(void)u;
	last = *si;
	siglongjmp(back, s);
}
static void catch(int s, int flags, void (*h)(int, siginfo_t *, void *))
{
	struct sigaction sa = { .sa_sigaction = h, .sa_flags = SA_SIGINFO | flags };
	sigaction(s, &sa, NULL);
}
static void wait_for(int n)
{
	for (int i = 0; i < 3000 && got < n; i++) msleep(1);
}
static void show(const char *what)
{
	wait_for(1);
	const char *n = sigabbrev_np(last.si_signo);
	printf("%s: %s code %d errno %d pid %s uid %s\n", what, n ? n : "RT", last.si_code, last.si_errno,
	       last.si_pid == getpid() ? "mine" : last.si_pid == getppid() ? "parent" : last.si_pid ? "other" : "0",
	       last.si_uid == getuid() ? "mine" : last.si_uid ? "other" : "0");
	memset(&last, 0, sizeof last);
	got = 0;
}
static void value(const char *what)
{
	wait_for(1);
	printf("%s: code %d value %d pid %s\n", what, last.si_code, last.si_value.sival_int, last.si_pid == getpid() ? "mine" : "other");
	got = 0;
}
static void *sender(void *arg)
{
	T(syscall(SYS_tgkill, getpid(), *(pid_t *)arg, SIGUSR1));
	return NULL;
}
static void child_of(const char *what, int how)
{
	got = 0;
	memset(&last, 0, sizeof last);
	pid_t p = fork();
	if (p == 0) {
		signal(SIGCHLD, SIG_DFL);
		struct rlimit none = { 0, 0 };
		setrlimit(RLIMIT_CORE, &none);
		prctl(PR_SET_DUMPABLE, 1);
		if (how == 0) _exit(42);
		if (how == 1) for (;;) pause();
		if (how == 2) abort();
		if (how == 3) {
			raise(SIGSTOP);
			_exit(0);
		}
	}
	if (how == 1) {
		msleep(20);
		kill(p, SIGTERM);
	}
	wait_for(1);
	printf("%s: code %d status %d pid %s uid %s\n", what, last.si_code, last.si_status, last.si_pid == p ? "child" : "other",
	       last.si_uid == getuid() ? "mine" : "other");
	if (how == 3) {
		got = 0;
		kill(p, SIGCONT);
		wait_for(1);
		msleep(20);
		printf("then code %d status %d, at most two: %d\n", last.si_code == CLD_CONTINUED || last.si_code == CLD_EXITED,
		       last.si_status == SIGCONT || last.si_status == 0, got <= 2);
	}
	int st;
	while (waitpid(p, &st, 0) == -1 && errno == EINTR)
		;
	printf("%s\n", status_text(st));
}
static const char *at(void *where, void *mine)
{
	return where == mine ? "right" : where == NULL ? "0" : "other";
}
#define FAULT(what, mine, ...)                                                                   \
	do {                                                                                     \
		memset(&last, 0, sizeof last);                                                   \
		int oracle_s = sigsetjmp(back, 1);                                               \
		if (oracle_s == 0) {                                                             \
			__VA_ARGS__;                                                             \
			printf("%s: no signal\n", what);                                         \
		} else                                                                           \
			printf("%s: %s code %d addr %s\n", what, sigabbrev_np(oracle_s), last.si_code, \
			       at(last.si_addr, mine));                                          \
	} while (0)

static volatile int zero;
extern char ud2_at[], int3_at[], hlt_at[], priv_at[];

int main(void)
{
	catch(SIGUSR1, 0, on);
	catch(SIGUSR2, 0, on);
	catch(SIGCHLD, 0, on);
	catch(SIGALRM, 0, on);
	catch(SIGRTMIN, 0, on);
	catch(SIGPIPE, 0, on);
	catch(SIGURG, 0, on);
	kill(getpid(), SIGUSR1);
	show("kill");
	raise(SIGUSR1);
	show("raise");
	syscall(SYS_tkill, gettid(), SIGUSR1);
	show("tkill");
	killpg(0, 0);
	sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 7 });
	value("sigqueue");
	sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = -8 });
	value("sigqueue RT");
	pid_t me = gettid();
	pthread_t t;
	pthread_create(&t, NULL, sender, &me);
	pthread_join(t, NULL);
	show("from a thread");
	pid_t p = fork();
	if (p == 0) {
		sigqueue(getppid(), SIGRTMIN, (union sigval){ .sival_ptr = (void *)0x1234567890 });
		_exit(0);
	}
	signal(SIGCHLD, SIG_DFL);
	while (waitpid(p, NULL, 0) == -1 && errno == EINTR)
		;
	wait_for(1);
	printf("RT from a child: value %lx pid %s\n", (long)last.si_value.sival_ptr, last.si_pid == p ? "child" : "other");
	got = 0;
	/* rt_sigqueueinfo: what may be told to whom */
	siginfo_t si;
	memset(&si, 0, sizeof si);
	int codes[] = { SI_USER, SI_KERNEL, SI_QUEUE, SI_TIMER, SI_MESGQ, SI_ASYNCIO, SI_SIGIO, SI_TKILL, 1, -100, 0x7fffffff };
	p = fork();
	if (p == 0)
		for (;;) pause();
	for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
		si.si_code = codes[i];
		si.si_pid = 99;
		si.si_uid = 98;
		si.si_value.sival_int = 97;
		got = 0;
		memset(&last, 0, sizeof last);
		int r = syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &si);
		printf("code %d to self: %s; got %d code %d pid %d uid %d\n", codes[i], r ? name_of(errno) : "ok", got, last.si_code,
		       last.si_pid, last.si_uid);
		r = syscall(SYS_rt_sigqueueinfo, p, 0, &si);
		printf("to another: %s; ", r ? name_of(errno) : "ok");
		r = syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR1, &si);
		printf("to own thread: %s\n", r ? name_of(errno) : "ok");
	}
	got = 0;
	T(syscall(SYS_rt_sigqueueinfo, getpid(), 65, &si));
	T(syscall(SYS_rt_sigqueueinfo, 0x3ffffff, SIGUSR1, &si));
	si.si_code = SI_QUEUE;
	T(syscall(SYS_rt_sigqueueinfo, getpid(), 65, &si));
	T(syscall(SYS_rt_sigqueueinfo, 0x3ffffff, SIGUSR1, &si));
	T(syscall(SYS_rt_sigqueueinfo, 0, SIGUSR1, &si));
	T(syscall(SYS_rt_sigqueueinfo, -1, SIGUSR1, &si));
	T(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, NULL));
	T(syscall(SYS_rt_tgsigqueueinfo, getpid(), 0, SIGUSR1, &si));
	T(syscall(SYS_rt_tgsigqueueinfo, 0, gettid(), SIGUSR1, &si));
	T(syscall(SYS_rt_tgsigqueueinfo, p, gettid(), SIGUSR1, &si));
	T(syscall(SYS_tgkill, getpid(), 0, 0));
	T(syscall(SYS_tgkill, -1, gettid(), 0));
	T(syscall(SYS_tgkill, p, gettid(), 0));
	T(syscall(SYS_tkill, 0, 0));
	T(kill(0x80000000, 0));
	T(kill(0x3ffffff, 65));
	T(kill(getpid(), -1));
	kill(p, SIGKILL);
	while (waitpid(p, NULL, 0) == -1 && errno == EINTR)
		;
	got = 0;

	/* Timers and the kernel */
	alarm(1);
	show("alarm");
	struct itimerval it = { { 0, 0 }, { 0, 1000 } };
	setitimer(ITIMER_REAL, &it, NULL);
	show("setitimer");
	timer_t id;
	struct sigevent se = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value = { .sival_int = 5 } };
	M(timer_create(CLOCK_MONOTONIC, &se, &id));
	struct itimerspec its = { { 0, 0 }, { 0, 1000000 } };
	timer_settime(id, 0, &its, NULL);
	wait_for(1);
	printf("timer: code %d value %d overrun %d\n", last.si_code, last.si_value.sival_int, last.si_overrun);
	got = 0;
	int pp[2];
	M(pipe(pp));
	close(pp[0]);
	T(write(pp[1], "x", 1));
	show("SIGPIPE");
	int sv[2];
	M(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	fcntl(sv[0], F_SETOWN, getpid());
	T(send(sv[1], "u", 1, MSG_OOB) > 0);
	show("SIGURG");
	fcntl(sv[0], F_SETSIG, SIGRTMIN);
	fcntl(sv[0], F_SETFL, O_ASYNC);
	M(write(sv[1], "x", 1));
	wait_for(1);
	printf("F_SETSIG: code %d band %lx fd %s\n", last.si_code, last.si_band, last.si_fd == sv[0] ? "right" : "wrong");
	got = 0;
	fcntl(sv[0], F_SETSIG, 0);
	catch(SIGIO, 0, on);
	M(write(sv[1], "x", 1));
	wait_for(1);
	printf("SIGIO: code %d\n", last.si_code);
	fcntl(sv[0], F_SETFL, 0);

	/* Children */
	catch(SIGCHLD, SA_RESTART, on);
	child_of("exited", 0);
	child_of("killed", 1);
	child_of("aborted", 2);
	child_of("stopped", 3);
	catch(SIGCHLD, SA_RESTART | SA_NOCLDSTOP, on);
	p = fork();
	if (p == 0) {
		raise(SIGSTOP);
		_exit(1);
	}
	got = 0;
	int st;
	while (waitpid(p, &st, WUNTRACED) == -1 && errno == EINTR)
		;
	printf("SA_NOCLDSTOP: %s, got %d\n", status_text(st), got);
	kill(p, SIGCONT);
	wait_for(1);
	printf("its end: code %d\n", last.si_code);
	waitpid(p, NULL, 0);

	/* Faults */
	for (int s = 0, all[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP }; s < 5; s++) catch(all[s], 0, fault);
	FAULT("null", (void *)16, *(volatile int *)16 = 1);
	char *ro = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FAULT("read-only", ro + 5, *(volatile char *)(ro + 5) = 1);
	char *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	FAULT("none", none, (void)*(volatile char *)none);
	FAULT("not executable", ro, ((void (*)(void))ro)());
	FAULT("non-canonical", NULL, *(volatile int *)0x8000000000000000 = 1);
	put_file("short", "abc", 0600);
	int fd = M(open("short", O_RDONLY));
	char *beyond = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, fd, 0);
	FAULT("beyond the file", beyond + 4096, (void)*(volatile char *)(beyond + 4096));
	FAULT("division", NULL, { volatile int r = 1 / zero; (void)r; });
	printf("its address is code: %d\n", last.si_addr != NULL);
	FAULT("ud2", ud2_at, asm volatile(".globl ud2_at\nud2_at: ud2"));
	FAULT("int3", NULL, asm volatile("int3"));
	FAULT("hlt", NULL, asm volatile("hlt"));
	FAULT("cli", NULL, asm volatile("cli"));
	FAULT("int 0x90", NULL, asm volatile("int $0x90"));
	FAULT("into the kernel", NULL, (void)*(volatile char *)0xffffffff81000000);
	FAULT("misaligned sse", NULL, asm volatile("movaps 1(%%rsp), %%xmm0" ::: "xmm0"));
	FAULT("single step", NULL, asm volatile("pushf\norq $0x100, (%%rsp)\npopf\nnop\nnop" ::: "cc", "memory"));

	/* A fault that is blocked or ignored kills all the same; a sent one does not. */
	for (int s = 0, all[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP }; s < 5; s++) signal(all[s], SIG_DFL);
	CHILD("ignored fault", {
		signal(SIGSEGV, SIG_IGN);
		raise(SIGSEGV);
		printf("raised and ignored\n");
		*(volatile int *)16 = 1;
	});
	CHILD("blocked and sent", {
		sigset_t m;
		sigset_t pend;
		catch(SIGSEGV, 0, on);
		catch(SIGBUS, 0, on);
		sigemptyset(&m);
		sigaddset(&m, SIGSEGV);
		sigaddset(&m, SIGBUS);
		sigprocmask(SIG_BLOCK, &m, NULL);
		raise(SIGSEGV);
		kill(getpid(), SIGBUS);
		getppid();
		sigpending(&pend);
		printf("got %d pending %d %d\n", got, sigismember(&pend, SIGSEGV), sigismember(&pend, SIGBUS));
		pid_t k = fork();
		if (k == 0) {
			sigpending(&pend);
			sigprocmask(SIG_UNBLOCK, &m, NULL);
			printf("in a child: got %d pending %d %d\n", got, sigismember(&pend, SIGSEGV), sigismember(&pend, SIGBUS));
			_exit(0);
		}
		reap("child", k);
		sigprocmask(SIG_UNBLOCK, &m, NULL);
		sigpending(&pend);
		printf("got %d pending %d %d\n", got, sigismember(&pend, SIGSEGV), sigismember(&pend, SIGBUS));
	});
	CHILD("blocked fault", {
		sigset_t m;
		sigemptyset(&m);
		sigaddset(&m, SIGSEGV);
		sigprocmask(SIG_BLOCK, &m, NULL);
		raise(SIGSEGV);
		sigpending(&m);
		printf("pending %d\n", sigismember(&m, SIGSEGV));
		*(volatile int *)16 = 1;
	});
	CHILD("blocked division", {
		sigset_t m;
		sigemptyset(&m);
		sigaddset(&m, SIGFPE);
		sigprocmask(SIG_BLOCK, &m, NULL);
		volatile int r = 1 / zero;
		(void)r;
	});
	CHILD("fault in the handler", {
		catch(SIGSEGV, 0, on);
		struct sigaction sa = { .sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESETHAND };
		sigaction(SIGSEGV, &sa, NULL);
		*(volatile int *)16 = 1;
	});
	CHILD("no stack", {
		catch(SIGUSR1, 0, on);
		asm volatile("mov $8, %%rsp\n1: mov %0, %%edi\nmov $10, %%esi\nmov $62, %%eax\nsyscall\njmp 1b" ::"r"(getpid()) : "memory");
	});
	return 0;
}
