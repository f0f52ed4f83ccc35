/* oracle: user
 * Directories read while they change: positions, rewinding, entries made and removed meanwhile, removal while reading, link
 * counts of directories, 20,000 entries, deep trees and long paths. */
#include "posix.h"
#include <dirent.h>

static int count(const char *d)
{
	DIR *dir = opendir(d);
	int n = 0;
	if (!dir) return -1;
	while (readdir(dir)) n++;
	closedir(dir);
	return n;
}
static int links(const char *p)
{
	struct stat st;
	return stat(p, &st) ? -1 : (int)st.st_nlink;
}
static void touch(const char *fmt, int i)
{
	char p[600];
	snprintf(p, sizeof p, fmt, i);
	close(M(open(p, O_CREAT | O_WRONLY, 0600)));
}

static void changing(void)
{
	M(mkdir("d", 0755));
	for (int i = 0; i < 500; i++) touch("d/f%d", i);
	DIR *dir = opendir("d"), *other = opendir("d");
	struct dirent *e;
	static char seen[1000];
	int twice = 0, alien = 0;
	/* Half is read, some of the rest removed, others made: what was there all the time is seen once. */
	for (int i = 0; i < 250; i++) {
		e = readdir(dir);
		if (e->d_name[0] == 'f') twice += seen[atoi(e->d_name + 1)]++;
	}
	char p[64];
	for (int i = 0; i < 500; i += 10) {
		snprintf(p, sizeof p, "d/f%d", i);
		M(unlink(p));
		snprintf(p, sizeof p, "d/new%d", i);
		touch(p, 0);
	}
	M(rename("d/f1", "d/renamed"));
	while ((e = readdir(dir))) {
		if (e->d_name[0] == 'f') twice += seen[atoi(e->d_name + 1)]++;
		else if (strncmp(e->d_name, "new", 3) && strcmp(e->d_name, "renamed") && e->d_name[0] != '.') alien++;
	}
	int missed = 0;
	for (int i = 2; i < 500; i++)
		if (i % 10 && !seen[i]) missed++;
	printf("twice %d missed %d alien %d\n", twice, missed, alien);
	rewinddir(dir);
	int n = 0, gone = 0;
	while ((e = readdir(dir))) {
		n++;
		gone += !strcmp(e->d_name, "f1") || !strcmp(e->d_name, "f10");
	}
	printf("after rewinding %d gone %d\n", n, gone);
	/* telldir and seekdir come back to the same entry. */
	int wrong = 0;
	long at[60];
	char names[60][256];
	rewinddir(other);
	for (int i = 0; i < 60; i++) {
		at[i] = telldir(other);
		strcpy(names[i], readdir(other)->d_name);
	}
	for (int i = 59; i >= 0; i -= 7) {
		seekdir(other, at[i]);
		wrong += strcmp(readdir(other)->d_name, names[i]) != 0;
	}
	printf("wrong after seekdir %d\n", wrong);
	T(lseek(dirfd(other), 0, SEEK_SET));
	T(lseek(dirfd(other), -1, SEEK_SET));
	/* Removing everything while reading, as rm does. */
	rewinddir(other);
	int failed = 0;
	while ((e = readdir(other)))
		if (e->d_name[0] != '.') failed += unlinkat(dirfd(other), e->d_name, 0) != 0;
	printf("failed to remove %d, left %d\n", failed, count("d"));
	T(rmdir("d"));
	rewinddir(dir);
	errno = 0;
	printf("removed directory reads %s", readdir(dir) ? "an entry" : "nothing");
	printf(" %s\n", name_of(errno));
	closedir(dir);
	closedir(other);
	/* A directory is its own number and its parent's. */
	M(mkdir("p", 0755));
	M(mkdir("p/c", 0755));
	struct stat st, pst;
	M(stat("p/c", &st));
	M(stat("p", &pst));
	dir = opendir("p/c");
	int dots = 0;
	while ((e = readdir(dir))) {
		if (!strcmp(e->d_name, ".")) dots += e->d_ino == st.st_ino && e->d_type == DT_DIR;
		if (!strcmp(e->d_name, "..")) dots += e->d_ino == pst.st_ino && e->d_type == DT_DIR;
	}
	printf("dots right %d\n", dots);
	closedir(dir);
	/* Numbers and types of every kind are those of stat. */
	for (int t = 0; t < CHR_; t++) {
		snprintf(p, sizeof p, "p/%s", types[t]);
		M(make(t, p, 0600));
	}
	dir = opendir("p");
	while ((e = readdir(dir))) {
		M(fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW));
		if (e->d_ino != st.st_ino || e->d_type != IFTODT(st.st_mode)) printf("%s: number or type differ\n", e->d_name);
	}
	closedir(dir);
	/* Without the right to search it can still be read, and the other way round. */
	if (geteuid()) {
		M(chmod("p", 0400));
		printf("read only: %d entries, stat %s\n", count("p"), stat("p/c", &st) ? name_of(errno) : "ok");
		M(chmod("p", 0100));
		printf("search only: %d, stat %s\n", count("p"), stat("p/c", &st) ? name_of(errno) : "ok");
		M(chmod("p", 0700));
	}
	char buf[20];
	int fd = M(open("p", O_RDONLY));
	T(syscall(SYS_getdents64, fd, buf, sizeof buf));
	T(syscall(SYS_getdents64, fd, buf, 0));
	T(syscall(SYS_getdents64, fd, (void *)8, 1000));
	T(syscall(SYS_getdents64, 99, buf, sizeof buf));
	T(syscall(SYS_getdents64, M(open("p/file", O_RDONLY)), buf, sizeof buf));
	T(syscall(SYS_getdents64, M(open("p", O_PATH)), buf, sizeof buf));
}

static void counts(void)
{
	M(mkdir("l", 0755));
	printf("links: new %d", links("l"));
	M(mkdir("l/a", 0755));
	M(mkdir("l/b", 0755));
	touch("l/f", 0);
	printf(" two directories in it %d", links("l"));
	M(rename("l/a", "l/b/a"));
	printf(" one moved away %d %d", links("l"), links("l/b"));
	M(rmdir("l/b/a"));
	printf(" removed %d", links("l/b"));
	M(mkdir("l/c", 0755));
	M(rename("l/c", "l/b"));
	printf(" replaced %d %d\n", links("l"), links("l/b"));
	for (int i = 0; i < 100; i++) {
		char p[64];
		snprintf(p, sizeof p, "l/h%d", i);
		M(link("l/f", p));
	}
	printf("hard links %d", links("l/f"));
	M(rename("l/h1", "l/h2"));
	printf(" renamed over itself %d", links("l/f"));
	touch("l/g", 0);
	M(rename("l/g", "l/h3"));
	printf(" replaced %d", links("l/f"));
	M(unlink("l/f"));
	printf(" removed %d\n", links("l/h4"));
	/* Symbolic links, FIFOs and sockets have links as well. */
	for (int t = 0; t < CHR_; t++) {
		char p[64], q[64];
		snprintf(p, sizeof p, "l/t%d", t);
		snprintf(q, sizeof q, "l/u%d", t);
		M(make(t, p, 0600));
		printf("%s: link %s", types[t], linkat(AT_FDCWD, p, AT_FDCWD, q, 0) ? name_of(errno) : "ok");
		struct stat st, su;
		M(lstat(p, &st));
		if (!lstat(q, &su)) printf(" same %d count %d", st.st_ino == su.st_ino, (int)su.st_nlink);
		puts("");
	}
}

static void large(void)
{
	int n = 20000;
	M(mkdir("big", 0755));
	for (int i = 0; i < n; i++) touch("big/a name of some length %d", i);
	printf("entries %d\n", count("big"));
	char p[64];
	for (int i = 0; i < n; i += 2) {
		snprintf(p, sizeof p, "big/a name of some length %d", i);
		M(unlink(p));
	}
	printf("entries %d\n", count("big"));
	M(chdir("big"));
	wipe();
	M(chdir(".."));
	T(rmdir("big"));
}

static void deep(void)
{
	char name[101], path[8192];
	memset(name, 'x', 100);
	name[100] = 0;
	int top = M(open(".", O_RDONLY));
	int depth = 60;
	char start[4096];
	M(getcwd(start, sizeof start) ? 0 : -1);
	for (int i = 0; i < depth; i++) {
		M(mkdir(name, 0755));
		M(chdir(name));
	}
	/* Deeper than PATH_MAX: the system call says ENAMETOOLONG, the path is too long to write. */
	errno = 0;
	long r = syscall(SYS_getcwd, path, sizeof path);
	printf("getcwd deep: %s\n", r < 0 ? name_of(errno) : "ok");
	for (int i = 0; i < 40; i++) M(chdir(".."));
	r = syscall(SYS_getcwd, path, sizeof path);
	printf("getcwd: length right %d\n", r == (long)strlen(start) + 20 * 101 + 1);
	T(syscall(SYS_getcwd, path, 20));
	T(syscall(SYS_getcwd, path, 0));
	M(fchdir(top));
	for (int i = 0; i < depth - 1; i++) M(chdir(name));
	for (int i = 0; i < depth - 1; i++) {
		M(rmdir(name));
		M(chdir(".."));
	}
	T(rmdir(name));
	/* Moving directories about while inside. */
	M(mkdir("m1", 0755));
	M(mkdir("m1/m2", 0755));
	M(mkdir("m1/m2/m3", 0755));
	M(mkdir("n", 0755));
	M(chdir("m1/m2/m3"));
	M(rename("../../../m1", "../../../n/moved"));
	M(getcwd(path, sizeof path) ? 0 : -1);
	printf("cwd %s\n", path + strlen(start));
	T(rename("../../../moved/m2", "../../../moved/m2/m3/x"));
	T(rename("../../m2", "../../../m2"));
	M(getcwd(path, sizeof path) ? 0 : -1);
	printf("cwd %s\n", path + strlen(start));
	T(chdir("../.."));
	M(getcwd(path, sizeof path) ? 0 : -1);
	printf("cwd %s\n", path + strlen(start));
}

int main(void)
{
	umask(022);
	changing();
	counts();
	large();
	deep();
	return 0;
}
