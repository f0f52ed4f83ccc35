/* Files of proc that are the host's own descriptors (those about the whole machine): by no call do they lead to anything else of
 * the host's proc, nor can anything be written or changed through them. */
#include "abuse.h"
#include <sys/sendfile.h>
#include <sys/xattr.h>

static const char *const FILES[] = { "stat", "meminfo", "uptime", "cpuinfo", "vmstat", "interrupts", "softirqs", "zoneinfo", "buddyinfo" };
static const char *const BESIDE[] = { "", ".", "..", "../1/environ", "1/maps", "../self", "/1/environ" };

static int escaped;

static void must_fail(const char *file, const char *what, long r)
{
	if (r >= 0) {
		printf("ESCAPED: %s of /proc/%s\n", what, file);
		escaped = 1;
	}
}

static void attack(const char *file)
{
	char path[64], byte = 0;
	snprintf(path, sizeof path, "/proc/%s", file);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return;
	struct {
		uint64_t flags, mode, resolve;
	} how = { 0, 0, 0 };
	for (size_t i = 0; i < sizeof BESIDE / sizeof *BESIDE; i++) {
		if (BESIDE[i][0] != '/')
			must_fail(file, "openat", raw6(SYS_openat, fd, (long)BESIDE[i], O_RDONLY, 0, 0, 0));
		if (BESIDE[i][0] != '/')
			must_fail(file, "openat2", raw6(SYS_openat2, fd, (long)BESIDE[i], (long)&how, sizeof how, 0, 0));
		must_fail(file, "unlinkat", raw6(SYS_unlinkat, fd, (long)BESIDE[i], 0, 0, 0, 0));
	}
	must_fail(file, "fchdir", raw6(SYS_fchdir, fd, 0, 0, 0, 0, 0));
	must_fail(file, "getdents64", raw6(SYS_getdents64, fd, (long)path, sizeof path, 0, 0, 0));
	must_fail(file, "write", raw6(SYS_write, fd, (long)"1", 1, 0, 0, 0));
	must_fail(file, "pwrite64", raw6(SYS_pwrite64, fd, (long)"1", 1, 0, 0, 0));
	must_fail(file, "ftruncate", raw6(SYS_ftruncate, fd, 0, 0, 0, 0, 0));
	must_fail(file, "fallocate", raw6(SYS_fallocate, fd, 0, 0, 1, 0, 0));
	must_fail(file, "fchmod", raw6(SYS_fchmod, fd, 0777, 0, 0, 0, 0));
	must_fail(file, "fchown", raw6(SYS_fchown, fd, 1, 1, 0, 0, 0));
	must_fail(file, "fsetxattr", raw6(SYS_fsetxattr, fd, (long)"user.x", (long)"1", 1, 0, 0));
	must_fail(file, "setns", raw6(SYS_setns, fd, 0, 0, 0, 0, 0));
	must_fail(file, "pidfd_send_signal", raw6(SYS_pidfd_send_signal, fd, 0, 0, 0, 0, 0));
	must_fail(file, "pidfd_getfd", raw6(SYS_pidfd_getfd, fd, 0, 0, 0, 0, 0));
	must_fail(file, "a writable map", raw6(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) > 0 ? 0 : -1);
	must_fail(file, "a lease", raw6(SYS_fcntl, fd, F_SETLEASE, F_RDLCK, 0, 0, 0));
	must_fail(file, "a notification", raw6(SYS_fcntl, fd, F_NOTIFY, 0x3f, 0, 0, 0));
	must_fail(file, "execveat", raw6(SYS_execveat, fd, (long)"", 0, 0, AT_EMPTY_PATH, 0));
	must_fail(file, "linkat", raw6(SYS_linkat, fd, (long)"", AT_FDCWD, (long)"/tmp/live-link", AT_EMPTY_PATH, 0));
	char handle[128] = { 120 };
	int mount;
	must_fail(file, "name_to_handle_at", raw6(SYS_name_to_handle_at, fd, (long)"", (long)handle, (long)&mount, AT_EMPTY_PATH, 0));
	/* FIOQSIZE tells the size, and the others left out belong to the descriptor. */
	for (unsigned long request = 0x5400; request < 0x5480; request++)
		if (request != FIOCLEX && request != FIONCLEX && request != FIONREAD && request != FIONBIO && request != FIOQSIZE)
			must_fail(file, "ioctl", raw6(SYS_ioctl, fd, request, (long)handle, 0, 0, 0));
	for (unsigned long request = 0xb700; request < 0xb710; request++)
		must_fail(file, "ioctl of namespaces", raw6(SYS_ioctl, fd, request, 0, 0, 0, 0));
	/* What the kernel fills such a file with cannot come from us. */
	int zero = open("/dev/zero", O_RDONLY), pipes[2];
	must_fail(file, "sendfile", raw6(SYS_sendfile, fd, zero, 0, 1, 0, 0));
	if (pipe(pipes) == 0 && write(pipes[1], &byte, 1) == 1)
		must_fail(file, "splice", raw6(SYS_splice, pipes[0], 0, fd, 0, 1, 0));
	char link[64];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	must_fail(file, "opening it again for writing", open(link, O_RDWR));
	snprintf(link, sizeof link, "/proc/self/fd/%d/../1/environ", fd);
	must_fail(file, "a path through it", open(link, O_RDONLY));
	close(fd);
}

int main(void)
{
	for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
		attack(FILES[i]);
	return escaped;
}
