/* What every oracle program shares. An oracle prints deterministic lines; the runner runs it on the host kernel and
 * inside Nomina and compares what it printed and its exit code. The first line of each .c says how:
 *   oracle: user         native as the ordinary user, inside with --user of the same ids
 *   oracle: root         native as root (or expected/NAME.out, recorded so), inside with the default --user 0
 *   oracle: user root    both
 * Print nothing that may differ between two runs on one kernel: pids, addresses, times, inode numbers. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Line buffered, so that a fork never carries a half-printed line into the child. */
static void __attribute__((constructor)) oracle_start(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(60);
}

static inline const char *name_of(int e)
{
	const char *n = e ? strerrorname_np(e) : "0";
	return n ? n : "?";
}

/* T(call): the call's text and its result: a number, or the errno's name. */
#define T(call)                                                                  \
	({                                                                       \
		errno = 0;                                                       \
		long oracle_r = (long)(call);                                    \
		int oracle_e = errno;                                            \
		if (oracle_r == -1)                                              \
			printf("%s: %s\n", #call, name_of(oracle_e));            \
		else                                                             \
			printf("%s: %ld\n", #call, oracle_r);                    \
		errno = oracle_e;                                                \
		oracle_r;                                                        \
	})

/* OK(call): as T, but prints only whether it worked, for results that differ from run to run. */
#define OK(call)                                                                 \
	({                                                                       \
		errno = 0;                                                       \
		long oracle_r = (long)(call);                                    \
		int oracle_e = errno;                                            \
		printf("%s: %s\n", #call, oracle_r == -1 ? name_of(oracle_e) : "ok"); \
		errno = oracle_e;                                                \
		oracle_r;                                                        \
	})

/* M(call): must work, is not the subject. */
#define M(call)                                                                  \
	({                                                                       \
		long oracle_r = (long)(call);                                    \
		if (oracle_r == -1) {                                            \
			printf("setup failed: %s: %s (line %d)\n", #call, name_of(errno), __LINE__); \
			exit(99);                                                \
		}                                                                \
		oracle_r;                                                        \
	})

static inline const char *status_text(int st)
{
	static char b[64];
	if (WIFEXITED(st)) snprintf(b, sizeof b, "exit %d", WEXITSTATUS(st));
	else if (WIFSIGNALED(st)) snprintf(b, sizeof b, "signal %s", sigabbrev_np(WTERMSIG(st)));
	else if (WIFSTOPPED(st)) snprintf(b, sizeof b, "stopped %s", sigabbrev_np(WSTOPSIG(st)));
	else if (WIFCONTINUED(st)) snprintf(b, sizeof b, "continued");
	else snprintf(b, sizeof b, "status %x", st);
	return b;
}

/* Wait for one child and print what became of it. */
static inline void reap(const char *what, pid_t pid)
{
	int st = 0;
	pid_t r = waitpid(pid, &st, 0);
	printf("%s: %s\n", what, r == pid ? status_text(st) : r == -1 ? name_of(errno) : "another pid");
}

/* Run a block in a child and print its end. */
#define CHILD(what, ...)                                                         \
	do {                                                                     \
		pid_t oracle_p = fork();                                         \
		if (oracle_p == 0) {                                             \
			__VA_ARGS__;                                             \
			fflush(stdout);                                          \
			_exit(0);                                                \
		}                                                                \
		reap(what, oracle_p);                                            \
	} while (0)

static inline void msleep(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
	while (nanosleep(&t, &t) == -1 && errno == EINTR)
		;
}

static inline void put_file(const char *path, const char *text, int mode)
{
	int fd = M(open(path, O_WRONLY | O_CREAT | O_TRUNC, mode));
	M(write(fd, text, strlen(text)));
	fchmod(fd, mode);
	close(fd);
}

static inline void print_file(const char *path)
{
	char b[4096];
	int fd = open(path, O_RDONLY);
	if (fd < 0) {
		printf("%s: %s\n", path, name_of(errno));
		return;
	}
	long n = read(fd, b, sizeof b - 1);
	close(fd);
	if (n < 0) n = 0;
	b[n] = 0;
	printf("%s holds \"%s\"\n", path, b);
}
