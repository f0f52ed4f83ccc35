/* Jumps to every syscall instruction in the shim's text with arguments of our own choosing, watching the result by
 * single steps: what is allowed from shim text is allowed to every guest, so none of it may reach the host. */
#include "abuse.h"
#include <ucontext.h>

static const char *token, *secret, *canary;
static int host_pid;
static volatile uintptr_t target;
static volatile int seen_target;
static volatile long result = -99999;

static void trap(int s, siginfo_t *si, void *u)
{
	(void)s;
	(void)si;
	ucontext_t *uc = u;
	uintptr_t rip = uc->uc_mcontext.gregs[REG_RIP];
	if (rip == target) {
		seen_target = 1;
		return;
	}
	if (seen_target) {
		result = uc->uc_mcontext.gregs[REG_RAX];
		_exit(result >= 0 && result < 4096 ? (int)(result % 200) : 201);
	}
}

static void go(uintptr_t site, const long *a)
{
	target = site;
	__asm__ volatile("mov 8(%1), %%rdi\n\tmov 16(%1), %%rsi\n\tmov 24(%1), %%rdx\n\tmov 32(%1), %%r10\n\t"
			 "mov 40(%1), %%r8\n\tmov 48(%1), %%r9\n\tmov 0(%1), %%rax\n\tmov %0, %%r11\n\t"
			 "pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tjmp *%%r11\n\t"
			 :: "b"(site), "c"(a) : "rax", "rdi", "rsi", "rdx", "r8", "r9", "r10", "r11", "memory");
}

int main(int argc, char **argv)
{
	if (argc < 5) return 2;
	token = argv[1];
	secret = argv[2];
	canary = argv[3];
	host_pid = atoi(argv[4]);
	static struct run runs[512];
	int n = mapped_runs(runs, 512);
	static uintptr_t sites[4096];
	int count = 0;
	signal(SIGSEGV, abuse_fault);
	signal(SIGBUS, abuse_fault);
	for (int i = 0; i < n; i++)
		for (volatile uintptr_t p = runs[i].start; p < runs[i].end; p += 4096) {
			if (sigsetjmp(abuse_jump, 1)) continue;
			const unsigned char *b = (void *)p;
			for (int k = 0; k < 4095 && count < 4096; k++)
				if (b[k] == 0x0f && b[k + 1] == 0x05) sites[count++] = p + k;
		}
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	printf("%d mapped runs, %d syscall instructions\n", n, count);
	char dot[4096];
	snprintf(dot, sizeof dot, "/proc/self/root%s", secret);
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_STREAM, 0), dsock = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (argc > 5) strncpy(un.sun_path, argv[5], sizeof un.sun_path - 1);
	/* A datagram socket is none of the host's, so that an address the shim would not pass on leads nowhere. */
	struct sockaddr_un dun = { .sun_family = AF_UNIX };
	if (argc > 5) snprintf(dun.sun_path, sizeof dun.sun_path, "%s.dgram", argv[5]);
	struct iovec word = { "out", 3 };
	struct msghdr dmsg = { .msg_name = &dun, .msg_namelen = sizeof dun, .msg_iov = &word, .msg_iovlen = 1 };
	struct mmsghdr dmsgs[1] = { { .msg_hdr = dmsg } };
	char *av[] = { "sh", "-c", "echo ESCAPED: executed a host program", NULL };
	uint64_t how[3] = { O_RDONLY, 0, 0 };
	int dir = open("/", O_RDONLY | O_DIRECTORY);
	const long attacks[][7] = {
		{ SYS_openat, -100, (long)secret, O_RDONLY },
		{ SYS_openat, -100, (long)dot, O_RDONLY },
		{ SYS_openat, -100, (long)canary, O_RDWR | O_TRUNC },
		{ SYS_openat, -100, (long)canary, O_WRONLY | O_CREAT, 0666 },
		{ SYS_openat, dir, (long)secret + 1, O_RDONLY },
		{ SYS_openat2, -100, (long)secret, (long)how, 24 },
		{ SYS_open, (long)secret, O_RDONLY },
		{ SYS_openat, -100, (long)"/proc/1/environ", O_RDONLY },
		{ SYS_name_to_handle_at, -100, (long)"/", (long)dot, (long)dot + 200, 0 },
		{ SYS_kill, host_pid, SIGKILL },
		{ SYS_tkill, host_pid, SIGKILL },
		{ SYS_tgkill, host_pid, host_pid, SIGKILL },
		{ SYS_rt_sigqueueinfo, host_pid, SIGKILL, (long)dot },
		{ SYS_pidfd_open, host_pid, 0 },
		{ SYS_ptrace, 16, host_pid, 0, 0 },
		{ SYS_process_vm_readv, host_pid, (long)dot, 1, (long)dot, 1, 0 },
		{ SYS_unlinkat, -100, (long)canary, 0 },
		{ SYS_unlink, (long)canary },
		{ SYS_truncate, (long)canary, 0 },
		{ SYS_renameat2, -100, (long)canary, -100, (long)"/tmp/x", 0 },
		{ SYS_fchmodat, -100, (long)canary, 0 },
		{ SYS_chmod, (long)canary, 0 },
		{ SYS_connect, sock, (long)&un, sizeof un },
		{ SYS_sendto, dsock, (long)"x", 1, 0, (long)&un, sizeof un },
		{ SYS_sendto, dsock, (long)"x", 1, 0, (long)&dun, sizeof dun },
		{ SYS_sendmsg, dsock, (long)&dmsg, 0 },
		{ SYS_sendmmsg, dsock, (long)dmsgs, 1, 0 },
		{ SYS_execve, (long)"/bin/sh", (long)av, 0 },
		{ SYS_execveat, -100, (long)"/bin/sh", (long)av, 0, 0 },
		{ SYS_setpriority, PRIO_PROCESS, host_pid, 19 },
		{ SYS_prlimit64, host_pid, RLIMIT_NOFILE, 0, (long)dot },
		{ SYS_sched_setaffinity, host_pid, 128, (long)dot },
		{ SYS_mount, (long)"none", (long)"/", (long)"tmpfs", 0, 0 },
		{ SYS_io_uring_setup, 8, (long)dot },
		{ SYS_bpf, 0, (long)dot, 72 },
		{ SYS_unshare, 0x10000000 },
		{ SYS_clone, 0x10000000 | SIGCHLD },
		{ SYS_chdir, (long)"/" },
		{ SYS_mknodat, -100, (long)"/tmp/mk", S_IFREG | 0600, 0 },
		{ SYS_socket, AF_INET, SOCK_STREAM, 0 },
		{ SYS_socket, 16 /* AF_NETLINK */, SOCK_RAW, 0 },
		{ SYS_setxattr, (long)canary, (long)"user.x", (long)"x", 1, 0 },
		{ SYS_inotify_add_watch, 0, (long)canary, 0xfff },
		{ GATE, 0, 0, GATE_MAGIC, 0, 0, 0 },
		{ GATE, (long)dot, 4096, GATE_MAGIC, (long)secret, 7, 7 },
	};
	int tried = 0, returned = 0;
	for (int s = 0; s < count; s++) {
		/* Very many sites say the same; take all of the first 64, then every eighth. */
		if (s >= 64 && s % 8) continue;
		for (unsigned k = 0; k < sizeof attacks / sizeof *attacks; k++) {
			tried++;
			static char stack[65536];
			(void)stack;
			pid_t c = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, 0L);
			if (c == 0) {
				struct sigaction sa = { .sa_sigaction = trap, .sa_flags = SA_SIGINFO | SA_NODEFER };
				sigaction(SIGTRAP, &sa, NULL);
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				alarm(2);
				go(sites[s], attacks[k]);
				_exit(202);
			}
			int st = reap_within(c, 500);
			if (st != -1 && WIFEXITED(st) && WEXITSTATUS(st) < 200) returned++;
			/* Descriptors are shared with the child: whatever it got, we hold. */
			for (int fd = 3; fd < 64; fd++) {
				if (fd == sock || fd == dsock || fd == dir || fcntl(fd, F_GETFD) == -1) continue;
				if (holds_token(fd, token)) printf("ESCAPED: call %ld at %lx opened the secret\n", attacks[k][0], sites[s]);
				close(fd);
			}
		}
	}
	printf("%d jumps, %d calls answered with a small number\n", tried, returned);
	return count == 0 ? 3 : 0;
}
