/* oracle: user
 * Every action of a seccomp filter, for calls that act on handles and for calls that carry names. */
#include "oracle.h"
#include "seccomp.h"
#include <ucontext.h>

static volatile int handled;

static void handler(int s, siginfo_t *si, void *u)
{
	ucontext_t *uc = u;
	unsigned long after = (unsigned long)si->si_call_addr;
	handled++;
	printf("  SIGSYS %d code %d errno %d call %d arch %x address %s rax %lld masked %d\n", s, si->si_code, si->si_errno,
	       si->si_syscall, si->si_arch, after == (unsigned long)uc->uc_mcontext.gregs[REG_RIP] ? "behind the call" : "elsewhere",
	       (long long)uc->uc_mcontext.gregs[REG_RAX], sigismember(&uc->uc_sigmask, SIGSYS));
	uc->uc_mcontext.gregs[REG_RAX] = 77;
}

static void handle(int flags)
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };
	M(sigaction(SIGSYS, &sa, NULL));
}

/* Calls that stay native, and calls that are served: all have to do the same. */
static const int calls[] = { SYS_lseek, SYS_getppid, SYS_getpid, SYS_uname, SYS_rt_sigprocmask, SYS_wait4, SYS_mkdir, SYS_unshare, SYS_io_uring_setup };
#define CALLS (int)(sizeof calls / sizeof *calls)

static void each(const char *what, unsigned action)
{
	/* What Nomina refuses (the last) with its own filter it refuses for an unknown action, too. */
	for (int i = 0; i < CALLS - (action == 0x00120000); i++) {
		printf("%s of call %d\n", what, calls[i]);
		CHILD("  ended", {
			no_new_privs();
			M(on(calls[i], action));
			errno = 0;
			long r = syscall(calls[i], -1, -1, -1, 8, -1, -1);
			printf("  gives %ld %s\n", r, name_of(errno));
		});
	}
}

static void within(int s)
{
	(void)s;
	printf("  in the handler: %ld\n", syscall(SYS_getppid));
}

int main(void)
{
	handle(0);
	each("errno 1234", SECCOMP_RET_ERRNO | 1234);
	each("errno 0", SECCOMP_RET_ERRNO);
	each("errno too large", SECCOMP_RET_ERRNO | 0xffff);
	each("trap", SECCOMP_RET_TRAP | 42);
	each("trace without a tracer", SECCOMP_RET_TRACE | 7);
	each("kill thread", SECCOMP_RET_KILL_THREAD);
	each("kill process", SECCOMP_RET_KILL_PROCESS);
	each("an action that does not exist", 0x00120000);
	for (int i = 0; i < CALLS; i++)
		CHILD("logged", { no_new_privs(); M(on(calls[i], SECCOMP_RET_LOG)); });

	for (int i = 0; i < 2; i++) {
		int nr = i ? SYS_getppid : SYS_lseek;
		CHILD("trap without a handler", { signal(SIGSYS, SIG_DFL); no_new_privs(); M(on(nr, SECCOMP_RET_TRAP)); syscall(nr, -1, 0, 0); });
		CHILD("trap that is ignored", { signal(SIGSYS, SIG_IGN); no_new_privs(); M(on(nr, SECCOMP_RET_TRAP)); syscall(nr, -1, 0, 0); });
		CHILD("trap that is blocked", {
			sigset_t set;
			sigemptyset(&set);
			sigaddset(&set, SIGSYS);
			sigprocmask(SIG_BLOCK, &set, NULL);
			no_new_privs();
			M(on(nr, SECCOMP_RET_TRAP));
			syscall(nr, -1, 0, 0);
		});
		CHILD("trap with SA_RESETHAND, twice", {
			handle(SA_RESETHAND);
			no_new_privs();
			M(on(nr, SECCOMP_RET_TRAP));
			printf("  %ld\n", syscall(nr, -1, 0, 0));
			printf("  %ld\n", syscall(nr, -1, 0, 0));
		});
		CHILD("trap on an alternate stack", {
			static char stack[65536];
			stack_t ss = { .ss_sp = stack, .ss_size = sizeof stack };
			M(sigaltstack(&ss, NULL));
			handle(SA_ONSTACK);
			no_new_privs();
			M(on(nr, SECCOMP_RET_TRAP));
			for (int k = 0; k < 3; k++) printf("  %ld\n", syscall(nr, -1, 0, 0));
		});
	}
	CHILD("trap in the handler of another signal", {
		handle(0);
		signal(SIGUSR1, within);
		no_new_privs();
		M(on(SYS_getppid, SECCOMP_RET_TRAP));
		raise(SIGUSR1);
	});
	CHILD("trap in its own handler", {
		signal(SIGSYS, within);
		no_new_privs();
		M(on(SYS_getppid, SECCOMP_RET_TRAP));
		syscall(SYS_getppid);
	});
	CHILD("trap in its own handler with SA_NODEFER", {
		struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER };
		sigaction(SIGSYS, &sa, NULL);
		no_new_privs();
		M(on(SYS_getppid, SECCOMP_RET_TRAP));
		printf("  %ld %ld, handled %d\n", syscall(SYS_getppid), syscall(SYS_getppid), handled);
	});
	return 0;
}
