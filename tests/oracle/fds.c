/* oracle: user
 * Descriptor numbers, dup, close_range, exhaustion, /proc/self/fd and /dev/fd. */
#include "oracle.h"
#include <dirent.h>
#include <sys/epoll.h>
#include <linux/close_range.h>

static void held(void)
{
	printf("open:");
	for (int i = 0; i < 40; i++)
		if (fcntl(i, F_GETFD) != -1) printf(" %d%s", i, fcntl(i, F_GETFD) ? "x" : "");
	printf("\n");
}

int main(void)
{
	struct rlimit rl;
	char b[64], l[256];
	held();
	T(open("/dev/null", O_RDONLY));
	T(dup(0));
	T(dup2(0, 10));
	T(dup2(0, 0));
	T(dup2(99, 11));
	T(dup2(99, 99));
	T(dup3(0, 0, 0));
	T(dup3(0, 12, O_CLOEXEC));
	T(dup3(0, 13, 0x1));
	T(fcntl(0, F_DUPFD, 20));
	T(fcntl(0, F_DUPFD_CLOEXEC, 20));
	T(fcntl(0, F_DUPFD, -1));
	T(fcntl(0, F_DUPFD, 100000000));
	T(dup(-1));
	held();
	T(close(3));
	T(open("/dev/zero", O_RDONLY));
	int dir = T(open("/", O_RDONLY | O_DIRECTORY));
	T(dup(dir));
	T(fcntl(dir, F_SETFD, FD_CLOEXEC));
	held();
	T(close_range(10, 12, CLOSE_RANGE_CLOEXEC));
	held();
	T(close_range(5, 4, 0));
	T(close_range(5, ~0u, 77));
	T(close_range(5, ~0u, 0));
	held();
	/* The world still answers after everything was closed. */
	T(access("/etc/passwd", F_OK));
	CHILD("all closed", { close_range(3, ~0u, 0); T(open("/etc/passwd", O_RDONLY)); T(access("/", F_OK)); });
	CHILD("closed one by one", { for (int i = 3; i < 5000; i++) close(i); T(open("/etc/passwd", O_RDONLY)); });
	CHILD("unshared", { T(close_range(3, ~0u, CLOSE_RANGE_UNSHARE)); held(); });
	held();
	DIR *d = opendir("/proc/self/fd");
	int n = 0, max = 0;
	struct dirent *e;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.') {
			n++;
			if (atoi(e->d_name) > max) max = atoi(e->d_name);
		}
	closedir(d);
	printf("/proc/self/fd: %d entries, highest %d\n", n, max);
	int f = M(open("file", O_CREAT | O_RDWR, 0600));
	M(write(f, "abc", 3));
	snprintf(b, sizeof b, "/proc/self/fd/%d", f);
	memset(l, 0, sizeof l);
	M(readlink(b, l, sizeof l - 1));
	printf("link ends in file: %d\n", !strcmp(strrchr(l, '/'), "/file"));
	snprintf(b, sizeof b, "/dev/fd/%d", f);
	int g = T(open(b, O_RDONLY));
	T(read(g, l, 10));
	T(open("/proc/self/fd/99", O_RDONLY));
	T(open("/dev/stdin_missing", O_RDONLY));
	T(access("/dev/stdin", F_OK));
	T(access("/dev/stdout", F_OK));
	int device = M(open("/dev/full", O_RDWR));
	snprintf(b, sizeof b, "/proc/self/fd/%d", device);
	memset(l, 0, sizeof l);
	M(readlink(b, l, sizeof l - 1));
	printf("%s\n", l);
	close(device);
	snprintf(b, sizeof b, "/proc/self/fdinfo/%d", f);
	FILE *i = fopen(b, "r");
	if (i && fgets(l, sizeof l, i)) printf("%s", l);
	if (i) fclose(i);
	close(g);
	close(f);

	M(getrlimit(RLIMIT_NOFILE, &rl));
	rl.rlim_cur = 32;
	T(setrlimit(RLIMIT_NOFILE, &rl));
	int last = -1, fd;
	while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
	printf("highest %d then %s\n", last, name_of(errno));
	T(open(".", O_RDONLY | O_DIRECTORY));
	int p[2];
	T(pipe(p));
	T(dup(0));
	T(socket(AF_UNIX, SOCK_STREAM, 0));
	T(epoll_create1(0));
	T(dup2(0, 31));
	T(dup2(0, 32));
	T(access("/etc/passwd", F_OK));
	CHILD("fork at the limit", T(access("/etc/passwd", F_OK)));
	CHILD("exec at the limit", execl("/bin/true", "true", NULL));
	rl.rlim_cur = rl.rlim_max + 1;
	if (rl.rlim_max != RLIM_INFINITY) T(setrlimit(RLIMIT_NOFILE, &rl));
	T(fcntl(99, F_GETFL));
	T(fcntl(0, 9999));
	return 0;
}
