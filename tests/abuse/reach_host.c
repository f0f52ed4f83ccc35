/* What names the host's world: its processes, sockets, terminals, memory. argv: TOKEN SECRET CANARY PID SOCKET ABSTRACT */
#include "abuse.h"
#include <termios.h>

static void con(const char *what, int type, const char *name, int abstract)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	strcpy(un.sun_path + abstract, name);
	/* One more byte either way: the leading zero of an abstract name, the closing one of a path. */
	socklen_t n = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
	int s = socket(AF_UNIX, type, 0);
	if (connect(s, (void *)&un, n) == 0) printf("ESCAPED: connected to the host's %s socket\n", what);
	else printf("%s socket: %s\n", what, strerrorname_np(errno));
	if (sendto(s, "hello", 5, MSG_NOSIGNAL, (void *)&un, n) > 0) printf("ESCAPED: sent to the host's %s socket\n", what);
	struct iovec v = { "hello", 5 };
	struct msghdr m = { .msg_name = &un, .msg_namelen = n, .msg_iov = &v, .msg_iovlen = 1 };
	if (sendmsg(s, &m, MSG_NOSIGNAL) > 0) printf("ESCAPED: sent to the host's %s socket by sendmsg\n", what);
	struct mmsghdr mm = { .msg_hdr = m };
	if (sendmmsg(s, &mm, 1, MSG_NOSIGNAL) > 0) printf("ESCAPED: sent to the host's %s socket by sendmmsg\n", what);
	close(s);
	int p[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, p) == 0) {
		if (sendto(p[0], "hello", 5, MSG_NOSIGNAL, (void *)&un, n) > 0 && recv(p[1], &un, 1, MSG_DONTWAIT) < 0)
			printf("ESCAPED: a socketpair's end sent to the host's %s socket\n", what);
		if (connect(p[0], (void *)&un, n) == 0 && send(p[0], "hello", 5, MSG_NOSIGNAL) > 0)
			printf("a pair's end was connected\n");
	}
}

int main(int argc, char **argv)
{
	if (argc < 7) return 2;
	const char *token = argv[1], *secret = argv[2], *canary = argv[3];
	int pid = atoi(argv[4]), fd;
	char b[256];
	/* Processes. The number may by chance be one of the sandbox's own: it is far above what those reach. */
	long calls[][4] = { { SYS_kill, pid, SIGKILL, 0 }, { SYS_kill, -pid, SIGKILL, 0 }, { SYS_tkill, pid, SIGKILL, 0 },
			    { SYS_tgkill, pid, pid, SIGKILL }, { SYS_pidfd_open, pid, 0, 0 }, { SYS_getpgid, pid, 0, 0 },
			    { SYS_getsid, pid, 0, 0 }, { SYS_sched_getscheduler, pid, 0, 0 }, { SYS_getpriority, 0, pid, 0 },
			    { SYS_setpgid, pid, pid, 0 }, { SYS_ptrace, 16, pid, 0 } };
	for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
		long r = syscall(calls[i][0], calls[i][1], calls[i][2], calls[i][3], 0, 0, 0);
		if (r >= 0) printf("ESCAPED: call %ld on the host process gave %ld\n", calls[i][0], r);
	}
	snprintf(b, sizeof b, "/proc/%d/cmdline", pid);
	if (open(b, O_RDONLY) >= 0) printf("ESCAPED: %s\n", b);
	siginfo_t si = { .si_signo = SIGKILL, .si_code = SI_QUEUE };
	if (syscall(SYS_rt_sigqueueinfo, pid, SIGKILL, &si) == 0) printf("ESCAPED: queued a signal\n");
	/* fcntl F_SETOWN and socket owners send signals by number. */
	int p[2];
	if (pipe(p) == 0) {
		fcntl(p[0], F_SETOWN, pid);
		struct { int type, pid; } ex = { 1, pid };
		fcntl(p[0], F_SETOWN_EX, &ex);
		fcntl(p[0], F_SETSIG, SIGKILL);
		fcntl(p[0], F_SETFL, O_ASYNC | O_NONBLOCK);
		if (write(p[1], "x", 1) != 1) printf("pipe\n");
	}
	int sp[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sp) == 0) {
		ioctl(sp[0], 0x8901 /* FIOSETOWN */, &pid);
		fcntl(sp[0], F_SETSIG, SIGKILL);
		fcntl(sp[0], F_SETFL, O_ASYNC);
		if (write(sp[1], "x", 1) != 1) printf("pair\n");
	}
	timer_t tm;
	struct sigevent se = { .sigev_notify = SIGEV_SIGNAL | 4, .sigev_signo = SIGKILL };
	se._sigev_un._tid = pid;
	if (timer_create(CLOCK_MONOTONIC, &se, &tm) == 0) printf("ESCAPED: a timer that kills the host process\n");
	/* Files. */
	if ((fd = open(secret, O_RDONLY)) >= 0 && holds_token(fd, token)) printf("ESCAPED: read the secret\n");
	unlink(canary);
	fd = open(canary, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd >= 0 && write(fd, "spoilt", 6) == 6) printf("a private copy was written\n");
	truncate(canary, 0) ? printf("truncate: %s\n", strerrorname_np(errno)) : 0;
	/* Sockets. */
	con("stream", SOCK_STREAM, argv[5], 0);
	con("abstract", SOCK_STREAM, argv[6], 1);
	snprintf(b, sizeof b, "%s.dgram", argv[5]);
	con("datagram", SOCK_DGRAM, b, 0);
	snprintf(b, sizeof b, "%s-dgram", argv[6]);
	con("abstract datagram", SOCK_DGRAM, b, 1);
	/* Terminals. */
	char ch = '\n';
	for (int i = 0; i < 3; i++) {
		if (ioctl(i, TIOCSTI, &ch) == 0) printf("ESCAPED: TIOCSTI on descriptor %d\n", i);
		char sub = 3;
		if (ioctl(i, TIOCLINUX, &sub) == 0) printf("ESCAPED: TIOCLINUX on descriptor %d\n", i);
	}
	int m = posix_openpt(O_RDWR | O_NOCTTY);
	if (m >= 0) {
		grantpt(m);
		unlockpt(m);
		int s = open(ptsname(m), O_RDWR | O_NOCTTY);
		if (s >= 0 && ioctl(s, TIOCSTI, &ch) == 0) printf("ESCAPED: TIOCSTI on an own pty\n");
		/* With high bits set, which a 64-bit comparison would let pass. */
		if (s >= 0 && syscall(SYS_ioctl, s, 0xdead00000000ul | TIOCSTI, &ch) == 0) printf("ESCAPED: TIOCSTI with high bits\n");
	}
	/* Devices and memory. */
	const char *never[] = { "/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/proc/kcore", "/dev/kvm", "/proc/sysrq-trigger", "/sys/kernel/debug" };
	for (unsigned i = 0; i < sizeof never / sizeof *never; i++)
		if ((fd = open(never[i], O_RDWR)) >= 0) printf("ESCAPED: opened %s\n", never[i]);
	mknod("/tmp/mem", S_IFCHR | 0666, 1 << 8 | 1);
	if ((fd = open("/tmp/mem", O_RDONLY)) >= 0 && read(fd, b, 1) == 1) printf("ESCAPED: a device node made inside is the host's\n");
	mknod("/tmp/vda", S_IFBLK | 0666, 254 << 8);
	if ((fd = open("/tmp/vda", O_RDONLY)) >= 0 && read(fd, b, 1) == 1) printf("ESCAPED: a block device made inside is the host's\n");
	long refused[] = { SYS_io_uring_setup, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_init_module, SYS_kexec_load, SYS_open_by_handle_at, SYS_swapon, SYS_iopl, SYS_quotactl };
	for (unsigned i = 0; i < sizeof refused / sizeof *refused; i++)
		if (syscall(refused[i], 0, 0, 0, 0, 0) >= 0) printf("ESCAPED: call %ld was allowed\n", refused[i]);
	/* Seccomp of our own must not take the gate away from others. */
	printf("reached nothing\n");
	return 0;
}
