/* oracle: user root
 * ptrace(2): who may, stops and their order, registers, memory, options and events, signals, threads, exec, detaching. */
#include "oracle.h"
#include <linux/ptrace.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/uio.h>
#include <sys/user.h>

#undef PTRACE_GETREGS
#define P(req, pid, addr, data) syscall(SYS_ptrace, (long)(req), (long)(pid), (long)(addr), (long)(data))
enum { GETREGS = 12, SETREGS = 13, GETFPREGS = 14, SETFPREGS = 15, STEP = 9, KILL_ = 8, POKEUSER = 6, PEEKUSER = 3, CONT = 7,
       ATTACH = 16, DETACH = 17, SYSC = 24, TRACEME = 0, PEEKDATA = 2, POKEDATA = 5 };

static volatile long word = 0x1122334455667788;
static volatile int counter;

static void step(const char *what, int status)
{
	if (WIFEXITED(status))
		printf("%s: exited %d\n", what, WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		printf("%s: killed %d\n", what, WTERMSIG(status));
	else if (WIFSTOPPED(status))
		printf("%s: stopped %d event %d\n", what, WSTOPSIG(status) & 0x7f, status >> 16);
	else
		printf("%s: status %x\n", what, status);
}

static int await(pid_t pid, const char *what)
{
	int status = 0;
	pid_t got = waitpid(pid, &status, __WALL);
	if (got != pid)
		printf("%s: wait %d %s\n", what, got == -1, strerrorname_np(errno));
	else
		step(what, status);
	return status;
}

static const char *err(long r)
{
	return r == -1 ? strerrorname_np(errno) : "ok";
}

static pid_t traced(void (*body)(void))
{
	pid_t pid = fork();
	if (pid == 0) {
		if (P(TRACEME, 0, 0, 0))
			_exit(99);
		raise(SIGSTOP);
		body();
		_exit(0);
	}
	await(pid, "first stop");
	return pid;
}

static void nothing(void) {}

static void refusals(void)
{
	printf("peek of nobody %s\n", err(P(PEEKDATA, 999999, &word, &word)));
	printf("attach to self %s\n", err(P(ATTACH, getpid(), 0, 0)));
	printf("attach to nobody %s\n", err(P(ATTACH, 999999, 0, 0)));
	pid_t pid = traced(nothing);
	printf("twice %s\n", err(P(ATTACH, pid, 0, 0)));
	printf("unknown request %s\n", err(P(0x7777, pid, 0, 0)));
	printf("bad options %s\n", err(P(PTRACE_SETOPTIONS, pid, 0, 0x1000)));
	printf("bad signal %s\n", err(P(CONT, pid, 0, 99)));
	printf("bad address %s\n", err(P(PEEKDATA, pid, 8, &word)));
	printf("bad user area %s\n", err(P(PEEKUSER, pid, 3, &word)));
	printf("listen %s\n", err(P(PTRACE_LISTEN, pid, 0, 0)));
	printf("interrupt %s\n", err(P(PTRACE_INTERRUPT, pid, 0, 0)));
	printf("cont %s\n", err(P(CONT, pid, 0, 0)));
	await(pid, "end");
	printf("gone %s\n", err(P(CONT, pid, 0, 0)));
	pid = fork();
	if (!pid) {
		pause();
		_exit(0);
	}
	printf("not stopped %s\n", err(P(CONT, pid, 0, 0)));
	kill(pid, SIGKILL);
	await(pid, "end");
}

static void memory(void)
{
	pid_t pid = traced(nothing);
	long value = 0;
	printf("peek %s", err(P(PEEKDATA, pid, &word, &value)));
	printf(" %lx\n", value);
	printf("poke %s\n", err(P(POKEDATA, pid, &word, 0x4242)));
	P(PEEKDATA, pid, &word, &value);
	printf("now %lx, here %lx\n", value, word);
	char buffer[64] = "";
	struct iovec local[2] = { { buffer, 3 }, { buffer + 3, 60 } }, remote = { "some read-only text", 20 };
	printf("readv %zd %s\n", process_vm_readv(pid, local, 2, &remote, 1, 0), buffer);
	long other = 0x7777;
	local[0] = (struct iovec){ &other, 8 };
	remote = (struct iovec){ (void *)&word, 8 };
	printf("writev %zd\n", process_vm_writev(pid, local, 1, &remote, 1, 0));
	P(PEEKDATA, pid, &word, &value);
	printf("now %lx\n", value);
	remote = (struct iovec){ (void *)16, 8 };
	printf("bad readv %s\n", err(process_vm_readv(pid, local, 1, &remote, 1, 0)));
	printf("flags %s\n", err(process_vm_readv(pid, local, 1, &remote, 1, 1)));
	printf("nobody %s\n", err(process_vm_readv(999999, local, 1, &remote, 1, 0)));
	char path[64];
	sprintf(path, "/proc/%d/mem", pid);
	int fd = open(path, O_RDWR);
	printf("mem %d\n", fd >= 0);
	value = 0;
	printf("pread %zd", pread(fd, &value, 8, (long)&word));
	printf(" %lx\n", value);
	value = 5;
	printf("pwrite %zd\n", pwrite(fd, &value, 8, (long)&word));
	P(PEEKDATA, pid, &word, &value);
	printf("now %lx\n", value);
	close(fd);
	/* Text can be changed too: a breakpoint. */
	printf("poke text %s\n", err(P(POKEDATA, pid, &nothing, 0xcccccccccccccccc)));
	P(CONT, pid, 0, 0);
	await(pid, "breakpoint");
	siginfo_t info;
	printf("info %s", err(P(PTRACE_GETSIGINFO, pid, 0, &info)));
	printf(" signal %d code %d\n", info.si_signo, info.si_code);
	struct user_regs_struct regs;
	P(GETREGS, pid, 0, &regs);
	printf("behind it %d\n", regs.rip == (long)&nothing + 1);
	P(CONT, pid, 0, SIGTRAP);
	await(pid, "end");
}

static void spin(void)
{
	__asm__ volatile("mov $7, %%r12\n\tmov $5, %%r13\n\tint3\n\tmov %%r12d, %0" : "=m"(counter) : : "r12", "r13");
	_exit(counter);
}

static void registers(void)
{
	pid_t pid = traced(spin);
	P(CONT, pid, 0, 0);
	await(pid, "int3");
	struct user_regs_struct regs;
	printf("regs %s\n", err(P(GETREGS, pid, 0, &regs)));
	printf("r12 %lld r13 %lld orig %lld\n", regs.r12, regs.r13, (long long)regs.orig_rax);
	printf("segments %llx %llx flags %d\n", regs.cs, regs.ss, (int)(regs.eflags >> 8 & 1));
	long value;
	P(PEEKUSER, pid, offsetof(struct user_regs_struct, r13), &value);
	printf("peekuser %ld\n", value);
	printf("pokeuser %s\n", err(P(POKEUSER, pid, offsetof(struct user_regs_struct, r12), 33)));
	struct iovec iov = { &regs, sizeof regs };
	printf("regset %s\n", err(P(PTRACE_GETREGSET, pid, 1, &iov)));
	printf("size %zu r12 %lld\n", iov.iov_len, regs.r12);
	iov.iov_len = 16;
	printf("short %s\n", err(P(PTRACE_GETREGSET, pid, 1, &iov)));
	printf("size %zu\n", iov.iov_len);
	printf("no such set %s\n", err(P(PTRACE_GETREGSET, pid, 0x1234, &iov)));
	struct user_fpregs_struct fp;
	printf("fpregs %s\n", err(P(GETFPREGS, pid, 0, &fp)));
	printf("mxcsr %x\n", fp.mxcsr);
	((long *)fp.xmm_space)[4] = 77;
	printf("set fpregs %s\n", err(P(SETFPREGS, pid, 0, &fp)));
	memset(&fp, 0, sizeof fp);
	P(GETFPREGS, pid, 0, &fp);
	printf("xmm2 %ld\n", ((long *)fp.xmm_space)[4]);
	char state[8192];
	iov = (struct iovec){ state, sizeof state };
	printf("xstate %s\n", err(P(PTRACE_GETREGSET, pid, 0x202, &iov)));
	printf("enough %d\n", iov.iov_len >= 576);
	printf("xmm2 there %ld\n", *(long *)(state + 160 + 32));
	printf("set xstate %s\n", err(P(PTRACE_SETREGSET, pid, 0x202, &iov)));
	regs.r12 = 44;
	iov = (struct iovec){ &regs, sizeof regs };
	P(PTRACE_GETREGSET, pid, 1, &iov);
	regs.r12 = 55;
	printf("set %s\n", err(P(SETREGS, pid, 0, &regs)));
	uint64_t mask = 0;
	printf("sigmask %s\n", err(P(PTRACE_GETSIGMASK, pid, 8, &mask)));
	printf("%d\n", (int)mask);
	printf("bad size %s\n", err(P(PTRACE_GETSIGMASK, pid, 4, &mask)));
	P(CONT, pid, 0, 0);
	await(pid, "end");
}

static void three_calls(void)
{
	syscall(SYS_getppid, 1, 2, 3, 4, 5, 6);
	if (syscall(SYS_getuid) == 4711)
		_exit(syscall(SYS_lseek, -1, 0, 0) == -1 && errno == EBADF ? 12 : 13);
	_exit(1);
}

static void system_calls(void)
{
	pid_t pid = traced(three_calls);
	printf("options %s\n", err(P(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)));
	P(SYSC, pid, 0, 0);
	for (int i = 0; i < 20; i++) {
		int status;
		waitpid(pid, &status, __WALL);
		if (!WIFSTOPPED(status)) {
			step("end", status);
			break;
		}
		struct user_regs_struct regs;
		P(GETREGS, pid, 0, &regs);
		struct ptrace_syscall_info info;
		memset(&info, 0, sizeof info);
		long size = P(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
		unsigned long message = 9;
		P(PTRACE_GETEVENTMSG, pid, 0, &message);
		siginfo_t about;
		P(PTRACE_GETSIGINFO, pid, 0, &about);
		printf("stop %x size %ld op %d message %lu code %x", status >> 8, size, info.op, message, about.si_code);
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
			printf(" nr %lld args %lld %lld rax %lld\n", info.entry.nr, info.entry.nr == SYS_getppid ? info.entry.args[0] : 0,
			       info.entry.nr == SYS_getppid ? info.entry.args[5] : 0, (long long)regs.rax);
			if (info.entry.nr == SYS_lseek) {
				/* Not to be made. */
				regs.orig_rax = -1;
				regs.rax = -EBADF;
				P(SETREGS, pid, 0, &regs);
			}
		} else {
			printf(" error %d nr %lld\n", info.exit.is_error, (long long)regs.orig_rax);
			if (regs.orig_rax == SYS_getuid) {
				regs.rax = 4711;
				P(SETREGS, pid, 0, &regs);
			}
		}
		P(SYSC, pid, 0, 0);
	}
}

static void on_usr1(int s) { counter = s; }

static void many_signals(void)
{
	signal(SIGUSR1, on_usr1);
	raise(SIGUSR1);
	raise(SIGUSR2);
	raise(SIGURG);
	signal(SIGHUP, SIG_IGN);
	raise(SIGHUP);
	raise(SIGTERM);
	_exit(counter);
}

static void signals(void)
{
	pid_t pid = traced(many_signals);
	P(CONT, pid, 0, 0);
	int status = await(pid, "usr1");
	siginfo_t info;
	P(PTRACE_GETSIGINFO, pid, 0, &info);
	printf("from itself %d code %d\n", info.si_pid == pid, info.si_code);
	P(CONT, pid, 0, WSTOPSIG(status));
	await(pid, "usr2");
	P(CONT, pid, 0, 0);
	await(pid, "ignored by default");
	P(CONT, pid, 0, SIGURG);
	await(pid, "ignored");
	P(CONT, pid, 0, SIGHUP);
	await(pid, "term");
	/* Another one in its place. */
	P(CONT, pid, 0, SIGUSR1);
	await(pid, "end");

	pid = traced(many_signals);
	P(CONT, pid, 0, 0);
	await(pid, "usr1");
	P(CONT, pid, 0, SIGKILL);
	await(pid, "end");
}

static void steps(void)
{
	pid_t pid = traced(spin);
	P(CONT, pid, 0, 0);
	await(pid, "int3");
	struct user_regs_struct before, after;
	P(GETREGS, pid, 0, &before);
	P(STEP, pid, 0, 0);
	await(pid, "step");
	P(GETREGS, pid, 0, &after);
	printf("forward %d trap flag %d\n", after.rip > before.rip && after.rip < before.rip + 16, (int)(after.eflags >> 8 & 1));
	siginfo_t info;
	P(PTRACE_GETSIGINFO, pid, 0, &info);
	printf("code %d\n", info.si_code);
	int calls = 0, steps = 0, status = 0;
	for (;;) {
		P(GETREGS, pid, 0, &before);
		long text = 0;
		P(PEEKDATA, pid, before.rip, &text);
		P(STEP, pid, 0, 0);
		waitpid(pid, &status, __WALL);
		if (!WIFSTOPPED(status))
			break;
		steps++;
		if ((text & 0xffff) == 0x050f) {
			calls++;
			P(GETREGS, pid, 0, &after);
			printf("over a call %d\n", after.rip == before.rip + 2);
		}
	}
	step("end", status);
	printf("some steps %d calls %d\n", steps > 5, calls);
}

static void forks(void)
{
	pid_t pid = fork();
	if (!pid)
		_exit(5);
	int status;
	waitpid(pid, &status, 0);
	pid = vfork();
	if (!pid)
		_exit(6);
	waitpid(pid, &status, 0);
	execl("/bin/true", "true", NULL);
}

static void events(void)
{
	pid_t pid = traced(forks);
	P(PTRACE_SETOPTIONS, pid, 0,
	  PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT);
	P(CONT, pid, 0, 0);
	for (int i = 0; i < 2; i++) {
		await(pid, i ? "vfork" : "fork");
		unsigned long child = 0;
		P(PTRACE_GETEVENTMSG, pid, 0, &child);
		await(child, "child");
		P(CONT, child, 0, 0);
		P(CONT, pid, 0, 0);
		await(child, "child exits");
		unsigned long status = 0;
		P(PTRACE_GETEVENTMSG, child, 0, &status);
		printf("message %lx\n", status);
		P(CONT, child, 0, 0);
		await(child, "child ends");
		if (i) {
			await(pid, "vfork done");
			unsigned long again = 0;
			P(PTRACE_GETEVENTMSG, pid, 0, &again);
			printf("same %d\n", again == child);
			P(CONT, pid, 0, 0);
		}
		await(pid, "child's signal");
		siginfo_t info;
		P(PTRACE_GETSIGINFO, pid, 0, &info);
		printf("code %d status %d right %d\n", info.si_code, info.si_status, info.si_pid == (pid_t)child);
		P(CONT, pid, 0, info.si_signo);
	}
	await(pid, "exec");
	unsigned long old = 0;
	P(PTRACE_GETEVENTMSG, pid, 0, &old);
	printf("old tid %d\n", old == (unsigned long)pid);
	P(CONT, pid, 0, 0);
	await(pid, "exit");
	P(CONT, pid, 0, 0);
	await(pid, "end");
}

static void only_exec(void)
{
	execl("/bin/true", "true", NULL);
}

static void exec_trap(void)
{
	pid_t pid = traced(only_exec);
	P(CONT, pid, 0, 0);
	await(pid, "exec without option");
	siginfo_t info;
	P(PTRACE_GETSIGINFO, pid, 0, &info);
	printf("code %d from itself %d\n", info.si_code, info.si_pid == pid);
	P(CONT, pid, 0, 0);
	await(pid, "end");
}

static void attaching(void)
{
	int ready[2], go[2];
	char c;
	pipe(ready);
	pipe(go);
	pid_t pid = fork();
	if (!pid) {
		write(ready[1], "r", 1);
		read(go[0], &c, 1);
		_exit(counter ? 8 : 9);
	}
	read(ready[0], &c, 1);
	printf("attach %s\n", err(P(ATTACH, pid, 0, 0)));
	await(pid, "attached");
	siginfo_t info;
	P(PTRACE_GETSIGINFO, pid, 0, &info);
	printf("signal %d code %d\n", info.si_signo, info.si_code);
	printf("poke %s\n", err(P(POKEDATA, pid, &counter, 1)));
	printf("detach %s\n", err(P(DETACH, pid, 0, 0)));
	printf("untraced %s\n", err(P(PEEKDATA, pid, &counter, &word)));

	printf("seize %s\n", err(P(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT)));
	int status;
	printf("runs on %d\n", waitpid(pid, &status, WNOHANG | __WALL));
	printf("interrupt %s\n", err(P(PTRACE_INTERRUPT, pid, 0, 0)));
	await(pid, "interrupted");
	P(CONT, pid, 0, 0);
	kill(pid, SIGSTOP);
	await(pid, "stop signal");
	P(CONT, pid, 0, SIGSTOP);
	await(pid, "group stop");
	printf("listen %s\n", err(P(PTRACE_LISTEN, pid, 0, 0)));
	printf("regs while listening %s\n", err(P(PEEKUSER, pid, 0, &word)));
	kill(pid, SIGCONT);
	await(pid, "continued");
	P(CONT, pid, 0, 0);
	await(pid, "cont signal");
	P(CONT, pid, 0, SIGCONT);
	write(go[1], "g", 1);
	await(pid, "exit event");
	printf("detach %s\n", err(P(DETACH, pid, 0, 0)));
	await(pid, "end");
}

static void *in_thread(void *nothing)
{
	counter++;
	syscall(SYS_gettid);
	return nothing;
}

static void threads_body(void)
{
	pthread_t t;
	pthread_create(&t, NULL, in_thread, NULL);
	pthread_join(t, NULL);
	/* Until the thread has ended, not only left its memory: it would be given the code of its process. */
	usleep(100000);
	_exit(counter + 20);
}

static void threads(void)
{
	pid_t pid = traced(threads_body);
	P(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXIT);
	P(CONT, pid, 0, 0);
	await(pid, "clone");
	unsigned long tid = 0;
	P(PTRACE_GETEVENTMSG, pid, 0, &tid);
	await(tid, "thread");
	P(CONT, tid, 0, 0);
	P(CONT, pid, 0, 0);
	await(tid, "thread exits");
	P(CONT, tid, 0, 0);
	await(tid, "thread ends");
	await(pid, "exit event");
	P(CONT, pid, 0, 0);
	await(pid, "end");
}

static void sleeper(void)
{
	struct timespec t = { 0, 300000000 };
	int r = nanosleep(&t, &t);
	_exit(r ? 1 : 2);
}

static void interrupted_sleep(void)
{
	pid_t pid = traced(sleeper);
	P(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD);
	P(CONT, pid, 0, 0);
	usleep(50000);
	kill(pid, SIGWINCH);
	await(pid, "in its sleep");
	struct user_regs_struct regs;
	P(GETREGS, pid, 0, &regs);
	printf("rax %lld\n", (long long)regs.rax);
	P(SYSC, pid, 0, SIGWINCH);
	await(pid, "restarted");
	P(GETREGS, pid, 0, &regs);
	printf("orig_rax %lld\n", (long long)regs.orig_rax);
	P(CONT, pid, 0, 0);
	await(pid, "end");
}

/* Attaching without a stop must not be noticed. */
static void seized_pause(void)
{
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();
		if (!pid) {
			pause();
			_exit(1);
		}
		usleep(i % 4 * 1000);
		long seized = P(PTRACE_SEIZE, pid, 0, 0);
		usleep(2000);
		kill(pid, SIGKILL);
		int status;
		waitpid(pid, &status, 0);
		if (seized || !WIFSIGNALED(status))
			printf("seized %s: status %x\n", err(seized), status);
	}
}

static void tracer_ends(void)
{
	int pipes[2];
	pipe(pipes);
	pid_t child = fork();
	if (!child) {
		close(pipes[0]);
		raise(SIGSTOP);
		write(pipes[1], "x", 1);
		_exit(4);
	}
	close(pipes[1]);
	int status;
	waitpid(child, &status, WUNTRACED);
	pid_t tracer = fork();
	if (!tracer) {
		P(PTRACE_SEIZE, child, 0, 0);
		kill(child, SIGCONT);
		_exit(0);
	}
	waitpid(tracer, &status, 0);
	char c = 0;
	printf("goes on %zd", read(pipes[0], &c, 1));
	printf(" %c\n", c);
	await(child, "end");
}

int main(void)
{
	refusals();
	memory();
	registers();
	system_calls();
	signals();
	steps();
	events();
	exec_trap();
	attaching();
	threads();
	interrupted_sleep();
	seized_pause();
	tracer_ends();
	return 0;
}
