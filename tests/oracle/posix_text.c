/* oracle: user root
 * ETXTBSY: a program that runs cannot be written, by any of its names and by nobody, but it can be replaced. */
#include "posix.h"

static void copy(const char *from, const char *to)
{
	static char b[1 << 16];
	int in = M(open(from, O_RDONLY)), out = M(open(to, O_WRONLY | O_CREAT | O_EXCL, 0755));
	long n;
	while ((n = M(read(in, b, sizeof b))) > 0) M(write(out, b, n));
	close(in);
	close(out);
}
static void attempt(const char *p)
{
	int how[] = { O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY | O_APPEND, O_RDONLY | O_TRUNC, O_WRONLY | O_TRUNC, O_WRONLY | O_CREAT, O_PATH };
	struct stat st;
	for (int i = 0; i < 8; i++) {
		int fd = open(p, how[i], 0644);
		printf("%s opened with %o: %s\n", p, how[i], fd < 0 ? name_of(errno) : "ok");
		if (fd >= 0) close(fd);
		/* What could be truncated is whole again. */
		if (fd >= 0 && how[i] & O_TRUNC) M(truncate(p, 20000));
	}
	T(truncate(p, 20000));
	T(truncate(p, 30000));
	M(stat(p, &st));
	printf("%s of some size %d\n", p, st.st_size >= 20000);
	T(chmod(p, 0755));
	T(utimensat(AT_FDCWD, p, NULL, 0));
}

int main(int argc, char **argv)
{
	int p[2];
	char c;
	if (argc > 1) {
		M(write(3, "r", 1));
		pause();
	}
	copy("/proc/self/exe", "prog");
	M(pipe(p));
	pid_t child = fork();
	if (!child) {
		dup2(p[1], 3);
		execl("./prog", "prog", "run", NULL);
		_exit(1);
	}
	M(read(p[0], &c, 1));
	M(link("prog", "other"));
	M(symlink("prog", "sym"));
	attempt("prog");
	attempt("other");
	attempt("sym");
	char exe[40];
	snprintf(exe, sizeof exe, "/proc/%d/exe", (int)child);
	printf("by /proc: %s\n", open(exe, O_WRONLY) < 0 ? name_of(errno) : "ok");
	T(link("prog", "third"));
	T(unlink("third"));
	T(rename("prog", "moved"));
	attempt("moved");
	copy("moved", "prog");
	T(rename("prog", "moved"));
	attempt("other");
	M(kill(child, SIGKILL));
	reap("program", child);
	T(open("other", O_WRONLY) < 0 ? -1 : 0);
	T(truncate("other", 20000));
	/* A child that only forked runs the same program. */
	M(unlink("sym"));
	M(chmod("moved", 0755));
	for (int round = 0; round < 3; round++) {
		M(unlink("other"));
		copy("/proc/self/exe", "other");
		child = fork();
		if (!child) {
			dup2(p[1], 3);
			execl("./other", "other", "run", NULL);
			_exit(1);
		}
		M(read(p[0], &c, 1));
		printf("running: %s", open("other", O_WRONLY) < 0 ? name_of(errno) : "ok");
		M(kill(child, SIGKILL));
		M(waitpid(child, NULL, 0));
		printf(" ended: %s\n", open("other", O_WRONLY) < 0 ? name_of(errno) : "ok");
	}
	return 0;
}
