/* lockdown: run a command under what container profiles and hardened hosts refuse.
 *
 *   lockdown COMMAND [ARG...]
 *   lockdown --filter FILE COMMAND [ARG...]     under the BPF in FILE instead (tests/container.py)
 *
 * Refused with EPERM: every way to a new or another namespace, mounts, chroot, ptrace and the other ways into foreign
 * memory, bpf, perf, keyrings, userfaultfd, io_uring. clone3 is ENOSYS, because its flags lie in memory where a filter
 * cannot see them. Everything else passes, so what still works in here works in an unprivileged container too. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static const unsigned refused[] = {
	SYS_unshare, SYS_setns,
	SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsmount,
	SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,
	SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_io_uring_setup,
	SYS_keyctl, SYS_add_key, SYS_request_key,
};
#define REFUSED (sizeof refused / sizeof *refused)

static struct sock_filter prog[2 * REFUSED + 16];
static unsigned len;

static void put(unsigned short code, unsigned char jt, unsigned char jf, unsigned k)
{
	prog[len++] = (struct sock_filter){ code, jt, jf, k };
}

static struct sock_filter given[BPF_MAXINSNS];

static unsigned read_filter(const char *path)
{
	FILE *f = fopen(path, "r");
	unsigned n = f ? fread(given, sizeof *given, BPF_MAXINSNS, f) : 0;
	if (!n) perror(path);
	return n;
}

static void answer(unsigned action) { put(BPF_RET | BPF_K, 0, 0, action); }

int main(int argc, char **argv)
{
	const unsigned new_namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
					CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWTIME;
	if (argc < 2) {
		fputs("usage: lockdown COMMAND [ARG...]\n", stderr);
		return 125;
	}
	put(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < REFUSED; i++) {
		put(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, refused[i]);
		answer(SECCOMP_RET_ERRNO | EPERM);
	}
	put(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_clone3);
	answer(SECCOMP_RET_ERRNO | ENOSYS);
	put(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, SYS_clone);
	put(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, args[0]));
	put(BPF_JMP | BPF_JSET | BPF_K, 0, 1, new_namespaces);
	answer(SECCOMP_RET_ERRNO | EPERM);
	answer(SECCOMP_RET_ALLOW);

	struct sock_fprog filter = { len, prog };
	if (argc > 3 && !strcmp(argv[1], "--filter")) {
		filter = (struct sock_fprog){ read_filter(argv[2]), given };
		argv += 2;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) {
		perror("lockdown");
		return 125;
	}
	execvp(argv[1], argv + 1);
	int e = errno;
	perror(argv[1]);
	return e == ENOENT ? 127 : 126;
}
