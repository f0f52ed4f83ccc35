/* oracle: user root
 * Every refusal of copy_process and copy_namespaces, one clone(2) each; clone3 is left out, as it may be ENOSYS. */
#include "oracle.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static long raw(unsigned long flags)
{
	static char stack[65536] __attribute__((aligned(64)));
	/* A stack only where memory is shared: the child of a forbidden combination never runs, an allowed one exits. */
	void *sp = flags & CLONE_VM ? stack + sizeof stack : NULL;
	/* The child exits before it would return to this frame, which may not be on its stack. */
	long r;
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	__asm__ volatile("syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\tmov $60, %%eax\n\tmov $7, %%edi\n\tsyscall\n1:"
			 : "=a"(r)
			 : "a"(SYS_clone), "D"(flags), "S"(sp), "d"(0), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	if (r < 0) {
		errno = -r;
		return -1;
	}
	return r;
}

static void try(const char *text, unsigned long flags)
{
	int st = 0;
	long r = raw(flags | SIGCHLD);
	if (r == -1) {
		printf("%s: %s\n", text, name_of(errno));
	} else {
		waitpid(r, &st, __WALL);
		printf("%s: child, %s\n", text, status_text(st));
	}
}
#define TRY(f) try(#f, f)

int main(void)
{
	TRY(0);
	TRY(CLONE_NEWUSER | CLONE_FS);
	TRY(CLONE_NEWNS | CLONE_FS);
	TRY(CLONE_NEWNS | CLONE_NEWUSER | CLONE_FS);
	TRY(CLONE_THREAD);
	TRY(CLONE_THREAD | CLONE_VM);
	TRY(CLONE_SIGHAND);
	TRY(CLONE_SIGHAND | CLONE_THREAD);
	TRY(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWUSER);
	TRY(CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWPID);
	TRY(CLONE_NEWIPC | CLONE_SYSVSEM);
	TRY(CLONE_NEWUTS);
	TRY(CLONE_NEWPID);
	TRY(CLONE_NEWUTS | CLONE_NEWPID);
	TRY(CLONE_FS);
	TRY(CLONE_FILES);
	TRY(CLONE_FS | CLONE_FILES);
	TRY(CLONE_VM | CLONE_VFORK);
	TRY(CLONE_VM | CLONE_SIGHAND | CLONE_VFORK);
	TRY(CLONE_IO);
	TRY(CLONE_SYSVSEM);
	TRY(CLONE_UNTRACED);
	TRY(CLONE_DETACHED);
	TRY(CLONE_PIDFD | CLONE_DETACHED);
	/* Invalid exit signals: the low byte is not checked by clone(2), only the flags are. */
	T(unshare(0));
	T(unshare(CLONE_FILES));
	T(unshare(CLONE_FS));
	T(unshare(CLONE_SYSVSEM));
	T(unshare(CLONE_THREAD));
	T(unshare(CLONE_VM));
	T(unshare(CLONE_SIGHAND));
	T(unshare(CLONE_PARENT_SETTID));
	T(unshare(0x1));
	CHILD("unshare uts", T(unshare(CLONE_NEWUTS)));
	CHILD("unshare pid", T(unshare(CLONE_NEWPID)));
	T(setns(-1, 0));
	T(setns(0, 0));
	T(setns(0, CLONE_NEWUTS));
	int fd = M(open("/proc/self/ns/uts", O_RDONLY));
	T(setns(fd, CLONE_NEWPID));
	T(setns(fd, CLONE_NEWUTS));
	T(setns(fd, 0));
	int p = M(open("/proc/self/ns/pid", O_RDONLY));
	T(setns(p, CLONE_NEWUTS));
	T(setns(p, CLONE_NEWPID));
	return 0;
}
