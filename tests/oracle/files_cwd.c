/* oracle: user
 * Working directories, long paths, dot dot, symlink counts, /proc/self links of them. */
#include "oracle.h"
#include <limits.h>

int main(void)
{
	char start[4096], b[8192], c[8192];
	M(getcwd(start, sizeof start) ? 0 : -1);
	size_t n = strlen(start);
#define HERE() printf("here: %s\n", getcwd(b, sizeof b) ? (strncmp(b, start, n) ? b : b + n) : name_of(errno))
	M(mkdir("a", 0755));
	M(mkdir("a/b", 0755));
	M(mkdir("a/b/c", 0755));
	M(symlink("a/b", "jump"));
	put_file("f", "", 0644);
	T(chdir("a/b/c"));
	HERE();
	T(chdir(".."));
	HERE();
	T(chdir("../../jump/c"));
	HERE();
	T(chdir("../.."));
	HERE();
	T(chdir(start));
	T(chdir("f"));
	T(chdir("missing"));
	T(chdir(""));
	T(chdir((char *)8));
	T(fchdir(99));
	int fd = M(open("a/b", O_RDONLY | O_DIRECTORY)), ff = M(open("f", O_RDONLY));
	T(fchdir(ff));
	T(fchdir(fd));
	HERE();
	CHILD("child moves alone", { T(chdir("c")); HERE(); });
	HERE();
	M(rename("../b", "../renamed"));
	HERE();
	M(readlink("/proc/self/cwd", c, sizeof c));
	memset(c, 0, sizeof c);
	M(readlink("/proc/self/cwd", c, sizeof c - 1));
	printf("/proc/self/cwd: %s\n", strncmp(c, start, n) ? c : c + n);
	memset(c, 0, sizeof c);
	M(readlink("/proc/self/root", c, sizeof c - 1));
	printf("/proc/self/root: %s\n", c);
	T(syscall(SYS_getcwd, b, 2));
	T(syscall(SYS_getcwd, NULL, 100));
	printf("length with the end: %d\n", syscall(SYS_getcwd, b, sizeof b) == (long)strlen(b) + 1);
	T(chdir(start));
	/* 40 links are followed, 41 are not. */
	put_file("l0", "end", 0644);
	for (int i = 1; i <= 41; i++) {
		snprintf(b, sizeof b, "l%d", i - 1);
		snprintf(c, sizeof c, "l%d", i);
		M(symlink(b, c));
	}
	T(access("l40", F_OK));
	T(access("l41", F_OK));
	/* Deep: beyond PATH_MAX by steps. */
	char step[201];
	memset(step, 's', 200);
	step[200] = 0;
	for (int i = 0; i < 25; i++) {
		M(mkdir(step, 0755));
		M(chdir(step));
	}
	T(syscall(SYS_getcwd, b, 4096) > 0 ? 0 : -1);
	T(open("deep", O_CREAT | O_RDWR, 0600));
	T(access("deep", F_OK));
	for (int i = 0; i < 25; i++) M(chdir(".."));
	HERE();
	printf("realpath: %s\n", realpath("jump/../a/./renamed//c", c) ? c + n : name_of(errno));
	printf("realpath: %s\n", realpath("a/../a/./renamed//c", c) ? c + n : name_of(errno));
	M(chdir("/"));
	T(chdir(".."));
	printf("root: %s\n", getcwd(b, sizeof b));
	return 0;
}
