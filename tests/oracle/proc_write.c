/* oracle: user root
 * What write(2) answers on control files of proc: id maps, setgroups, names, scores; errors come from the write itself. */
#include "oracle.h"
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/utsname.h>

/* One write to a freshly opened file. */
static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0) {
		printf("%s: open: %s\n", path, name_of(errno));
		return;
	}
	long r = write(fd, text, strlen(text));
	printf("%s < \"%.20s\": ", path, text);
	if (r < 0)
		printf("%s\n", name_of(errno));
	else
		printf("%ld\n", r);
	close(fd);
}

static void id_maps(void)
{
	int uid = getuid(), gid = getgid();
	put("/proc/self/setgroups", "deny");
	put("/proc/self/uid_map", "0 0 1");
	int pipes[2], status[2];
	M(pipe(pipes));
	M(pipe(status));
	pid_t child = M(fork());
	if (child == 0) {
		char c;
		long r = unshare(CLONE_NEWUSER);
		M(write(status[1], r == 0 ? "y" : "n", 1));
		M(read(pipes[0], &c, 1));
		if (r == 0)
			printf("ids in the child: %d %d\n", getuid(), getgid());
		_exit(0);
	}
	char c;
	M(read(status[0], &c, 1));
	if (c == 'y') {
		char path[64], gids[64], groups[64];
		snprintf(path, sizeof path, "/proc/%d/uid_map", child);
		snprintf(gids, sizeof gids, "/proc/%d/gid_map", child);
		snprintf(groups, sizeof groups, "/proc/%d/setgroups", child);
		int fd = M(open(path, O_WRONLY));
		T(write(fd, "", 0));
		T(write(fd, "x", 1));
		T(write(fd, "0 0", 3));
		T(write(fd, "0 0 0\n", 6));
		T(write(fd, "0 4294967295 1\n", 15));
		T(write(fd, "0 1 1\n0 5 1\n", 12));
		char big[5000];
		memset(big, ' ', sizeof big);
		T(write(fd, big, sizeof big));
		char text[64];
		int len = snprintf(text, sizeof text, "0 %d 1\n", uid);
		long r = write(fd, text, len);
		printf("own id: %s\n", r == len ? "all" : name_of(errno));
		r = write(fd, text, len);
		printf("again: %s\n", r == len ? "all" : name_of(errno));
		close(fd);
		fd = M(open(path, O_WRONLY));
		r = write(fd, text, len);
		printf("again, newly opened: %s\n", r == len ? "all" : name_of(errno));
		close(fd);
		fd = M(open(groups, O_WRONLY));
		T(write(fd, "maybe", 5));
		T(write(fd, "deny of it", 10));
		T(write(fd, "deny\n", 5));
		T(write(fd, "deny\n", 5));
		close(fd);
		fd = M(open(groups, O_WRONLY));
		T(write(fd, "allow", 5));
		close(fd);
		fd = M(open(gids, O_WRONLY));
		len = snprintf(text, sizeof text, "0 %d 1\n", gid);
		struct iovec parts[2] = { { text, len }, { NULL, 0 } };
		r = writev(fd, parts, 2);
		printf("own group, by writev: %s\n", r == len ? "all" : name_of(errno));
		close(fd);
	}
	M(write(pipes[1], "g", 1));
	reap("child", child);
}

static void names(void)
{
	put("/proc/self/comm", "short\n");
	print_file("/proc/self/comm");
	put("/proc/self/comm", "much longer than a name\n");
	print_file("/proc/self/comm");
	CHILD("another's name", {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/comm", getppid());
		int fd = M(open(path, O_WRONLY));
		T(write(fd, "no", 2));
	});
	int fd = M(open("/proc/self/comm", O_RDWR));
	char b[64];
	long n = read(fd, b, sizeof b);
	T(n);
	T(read(fd, b, sizeof b));
	T(write(fd, "other", 5));
	struct stat st;
	M(fstat(fd, &st));
	printf("mode %o\n", st.st_mode);
	close(fd);
	print_file("/proc/self/comm");
	fd = M(open("/proc/self/comm", O_WRONLY | O_NONBLOCK | O_TRUNC));
	T(write(fd, "nonblock", 8));
	close(fd);
	print_file("/proc/self/comm");
	/* With every signal blocked, as container runtimes have it. */
	sigset_t all, old;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	put("/proc/self/comm", "blocked");
	put("/proc/self/oom_score_adj", "1001");
	sigprocmask(SIG_SETMASK, &old, NULL);
}

static void scores(void)
{
	put("/proc/self/oom_score_adj", "x");
	put("/proc/self/oom_score_adj", "1001");
	put("/proc/self/oom_score_adj", "-1001");
	put("/proc/self/oom_score_adj", "900\n");
	print_file("/proc/self/oom_score_adj");
	put("/proc/self/oom_adj", "16");
	put("/proc/self/oom_adj", "-18");
	put("/proc/self/stat", "1");
	put("/proc/self/mountinfo", "1");
}

static void settings(void)
{
	put("/proc/sys/kernel/osrelease", "6.0");
	if (geteuid() != 0)
		return;
	struct utsname u;
	M(unshare(CLONE_NEWUTS));
	put("/proc/sys/kernel/hostname", "first\nsecond");
	uname(&u);
	printf("host name %s\n", u.nodename);
	int fd = M(open("/proc/sys/kernel/hostname", O_WRONLY));
	T(write(fd, "ab", 2));
	uname(&u);
	printf("host name %s\n", u.nodename);
	T(write(fd, "cd\n", 3));
	uname(&u);
	printf("host name %s\n", u.nodename);
	T(write(fd, "ef", 2));
	uname(&u);
	printf("host name %s\n", u.nodename);
	close(fd);
	put("/proc/sys/kernel/domainname", "");
	uname(&u);
	printf("domain name \"%s\"\n", u.domainname);
}

int main(void)
{
	id_maps();
	names();
	scores();
	settings();
	return 0;
}
