/* A program under a seccomp filter of its own wants what the filter forbids: by requests of its own making, from the shim's text, from
 * call sites that were rewritten before, by other names for the same thing. What is served stays filtered in all of them, and what is
 * native is at most what the list of the shim's own calls has. */
#include "abuse.h"
#include <linux/filter.h>
#include <linux/seccomp.h>

#define CLONE_OP 0x8000
#define EXEC_OP 0x8002
#define ATTACH_OP 0x8031
#define STRICT_OP 0x8032
#define CLAIM 0x80000000u
#define GATE_CALL 1

/* What the filter forbids, with EXDEV: calls that are served, and two that are native. */
static const int forbidden[] = { SYS_mkdir, SYS_mkdirat, SYS_uname, SYS_getppid, SYS_unshare, SYS_setresuid, SYS_prlimit64, SYS_clone, SYS_fork, SYS_vfork, SYS_clone3,
				 SYS_execve, SYS_execveat, SYS_kill, SYS_tkill, SYS_lseek, SYS_getpriority };
#define COUNT (sizeof forbidden / sizeof *forbidden)

static int install(void)
{
	static struct sock_filter code[COUNT + 3];
	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
	for (unsigned i = 0; i < COUNT; i++) code[i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, forbidden[i], COUNT - i, 0);
	code[COUNT + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[COUNT + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV);
	struct sock_fprog program = { COUNT + 3, code };
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &program);
}

static uintptr_t site;
static struct slot *slot;
static unsigned long token;

/* Makes a request; `claim` is what it says it is for, 0: nothing. */
static long request(unsigned nr, unsigned claim, const uint64_t *args, const uint64_t *claimed)
{
	slot->nr = nr;
	memcpy(slot->args, args, 48);
	slot->flags = claim;
	for (int i = 0; i < 6; i++) slot->out[i] = claimed[i];
	slot->out[6] = 0x401000;
	long served = shim6(site, GATE, GATE_CALL, token, GATE_MAGIC, 0, 0, 0);
	return served < 0 ? served : slot->ret;
}

static void forge(void)
{
	static const uint64_t none[6];
	/* Requests of this kind are served, if they are for something that is allowed. */
	if (request(SYS_geteuid, CLAIM | SYS_geteuid, none, none) != geteuid() || request(SYS_getsid, 0, none, none) < 0) exit(5);
	strcpy(slot->data, "/tmp/forged");
	uint64_t path = (uint64_t)strlen(slot->data) << 32;
	struct {
		unsigned nr;
		uint64_t args[6];
	} wanted[] = {
		{ SYS_mkdir, { path, 0755 } },
		{ SYS_mkdirat, { (uint64_t)-100, path, 0755 } },
		{ SYS_uname, { 1000ull << 32 } },
		{ SYS_getppid, { 0 } },
		{ SYS_unshare, { CLONE_NEWUSER } },
		{ SYS_setresuid, { 0, 0, 0 } },
		{ SYS_prlimit64, { 1, RLIMIT_CPU, -1ull, 16ull << 32 } },
		{ CLONE_OP, { 0, SIGCHLD, 0 } },
		{ CLONE_OP, { CLONE_VM | CLONE_VFORK, SIGCHLD, 0 } },
		{ CLONE_OP, { CLONE_NEWUSER, SIGCHLD, 0 } },
		{ EXEC_OP, { (uint64_t)-100, path, 0 } },
		{ SYS_kill, { 1, 0 } },
		{ SYS_tkill, { 1, 0 } },
		{ SYS_getpriority, { 2, 0 } },
	};
	/* What it says it is for: nothing, itself, things that are allowed, and all that the filter knows. */
	unsigned claims[COUNT + 9] = { 0, SYS_getpid, SYS_getuid, SYS_getrlimit, SYS_setrlimit, SYS_accept, SYS_sendmsg, 0x7fffffff, SYS_read };
	memcpy(claims + 9, forbidden, sizeof forbidden);
	for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++)
		for (unsigned k = 0; k < COUNT + 9; k++) {
			for (int same = 0; same < 2; same++) {
				strcpy(slot->data, "/tmp/forged");
				unsigned claim = k ? CLAIM | claims[k] : 0;
				long r = request(wanted[i].nr, claim, wanted[i].args, same ? wanted[i].args : none);
				if (r >= 0) printf("ESCAPED: request %u claimed as %u gives %ld\n", wanted[i].nr, claims[k], r);
			}
		}
	/* The filters stay. */
	uint64_t zero[6] = { 0 };
	request(ATTACH_OP, 0, zero, zero);
	request(STRICT_OP, 0, zero, zero);
	if (access("/tmp/forged", F_OK) == 0) printf("ESCAPED: a forged request made a directory\n");
}

/* Many calls at one place, so that it is rewritten. */
static long __attribute__((noinline)) from_a_rewritten_place(void)
{
	return syscall(SYS_getppid);
}

int main(void)
{
	for (int i = 0; i < 200; i++) from_a_rewritten_place();
	site = shim_call_site();
	slot = own_slots();
	if (!site || !slot) return 3;
	if (install()) return 4;

	errno = 0;
	if (from_a_rewritten_place() != -1 || errno != EXDEV) printf("ESCAPED: a rewritten place gets around the filter\n");
	long direct[][7] = {
		{ SYS_mkdir, (long)"/tmp/forged", 0755 },
		{ SYS_lseek, 0, 0, 0 },
		{ SYS_getpriority, 0, 0 },
		{ SYS_execveat, 5, (long)"", 0, 0, 0x1000 },
		{ SYS_prlimit64, 0, RLIMIT_CPU, 0, 0 },
		{ SYS_unshare, CLONE_FILES },
		{ SYS_vfork },
		{ SYS_fork },
		{ SYS_clone3, 0, 0 },
	};
	for (unsigned i = 0; i < sizeof direct / sizeof *direct; i++) {
		long *a = direct[i];
		long plain = raw6(a[0], a[1], a[2], a[3], a[4], a[5], 0), shim = shim6(site, a[0], a[1], a[2], a[3], a[4], a[5], 0);
		if (plain != -EXDEV) printf("ESCAPED: call %ld gives %ld\n", a[0], plain);
		/* There a trap is what the shim takes for its own. */
		if (shim != -EXDEV && shim != -ENOSYS) printf("ESCAPED: call %ld from the shim's text gives %ld\n", a[0], shim);
	}
	forge();
	printf("tried\n");
	return 0;
}
