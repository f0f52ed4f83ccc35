/* oracle: user root
 * rename, renameat2, link, unlink, rmdir, mkdir: every combination of kinds, then counts and open files. */
#include "oracle.h"
#include <linux/fs.h>

static const char *kinds[] = { "none", "file", "dir", "full", "link", "dangling" };

static void make(const char *name, const char *kind)
{
	char c[64];
	if (!strcmp(kind, "file")) put_file(name, name, 0644);
	else if (!strcmp(kind, "dir")) M(mkdir(name, 0755));
	else if (!strcmp(kind, "full")) {
		M(mkdir(name, 0755));
		snprintf(c, sizeof c, "%s/x", name);
		put_file(c, "x", 0644);
	} else if (!strcmp(kind, "link")) M(symlink("t", name));
	else if (!strcmp(kind, "dangling")) M(symlink("nowhere", name));
}
static const char *what(const char *name)
{
	struct stat st;
	if (lstat(name, &st)) return name_of(errno);
	return S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "dir" : S_ISLNK(st.st_mode) ? "link" : "?";
}
static void clear(const char *name)
{
	char c[64];
	snprintf(c, sizeof c, "%s/x", name);
	unlink(c);
	if (unlink(name)) rmdir(name);
}

int main(void)
{
	struct stat st;
	put_file("t", "target", 0644);
	unsigned flags[] = { 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	const char *fname[] = { "plain", "noreplace", "exchange" };
	for (int f = 0; f < 3; f++)
		for (int i = 0; i < 6; i++)
			for (int j = 0; j < 6; j++) {
				make("a", kinds[i]);
				make("b", kinds[j]);
				int r = syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "b", flags[f]);
				printf("%s %s to %s: %s;", fname[f], kinds[i], kinds[j], r ? name_of(errno) : "ok");
				printf(" a %s b %s\n", what("a"), what("b"));
				clear("a");
				clear("b");
			}
	make("a", "full");
	T(rename("a", "a"));
	T(rename("a", "a/y"));
	T(rename("a", "a/x"));
	T(rename("a/x", "a"));
	T(rename("a/x", "x/"));
	T(rename("a", "b/"));
	T(rename("b/", "a"));
	T(rename("a/.", "b"));
	T(rename("a/..", "b"));
	T(rename(".", "b"));
	T(rename("a", "."));
	T(rename("a", ""));
	T(rename("", "a"));
	T(rename("t", "t/x"));
	T(rename("missing/x", "y"));
	T(rename("t", "missing/y"));
	T(syscall(SYS_renameat2, AT_FDCWD, "t", AT_FDCWD, "u", RENAME_NOREPLACE | RENAME_EXCHANGE));
	T(syscall(SYS_renameat2, AT_FDCWD, "t", AT_FDCWD, "u", 0x80));
	T(rmdir("a"));
	T(rmdir("t"));
	T(rmdir("a/."));
	T(rmdir("a/.."));
	T(rmdir("."));
	T(rmdir("/"));
	T(rmdir("missing"));
	T(unlink("a"));
	T(unlink("missing"));
	T(unlink("t/"));
	T(unlink(""));
	T(unlinkat(AT_FDCWD, "a", 0x8000));
	T(unlinkat(AT_FDCWD, "t", AT_REMOVEDIR));
	T(mkdir("a", 0755));
	T(mkdir("t", 0755));
	T(mkdir("a/new/", 0755));
	T(mkdir("missing/x", 0755));
	T(mkdir("t/x", 0755));
	T(mkdir(".", 0755));
	T(mkdir("/", 0755));
	T(mkdir("", 0755));
	M(symlink("nowhere", "dang"));
	T(mkdir("dang", 0755));
	T(symlink("x", "dang"));
	T(symlink("", "empty"));
	T(symlink("x", "missing/y"));
	T(symlink("x", "a/"));
	T(link("t", "hard"));
	T(link("t", "hard"));
	T(link("a", "hardd"));
	T(link("missing", "h"));
	T(link("dang", "hdang"));
	printf("hdang is %s\n", what("hdang"));
	T(linkat(AT_FDCWD, "dang", AT_FDCWD, "h2", AT_SYMLINK_FOLLOW));
	M(stat("t", &st));
	T(st.st_nlink);
	/* Two names of one inode: rename does nothing. */
	T(rename("t", "hard"));
	M(stat("hard", &st));
	T(st.st_nlink);
	put_file("hard", "changed", 0644);
	print_file("t");
	T(unlink("t"));
	M(stat("hard", &st));
	T(st.st_nlink);
	M(stat("a", &st));
	T(st.st_nlink >= 1);
	ino_t before = st.st_ino;
	M(rename("a", "moved"));
	M(stat("moved", &st));
	printf("same inode after rename: %d\n", st.st_ino == before);
	/* Open and unlinked files live on, and a new file of that name is another one. */
	int fd = M(open("hard", O_RDWR));
	M(unlink("hard"));
	M(fstat(fd, &st));
	T(st.st_nlink);
	T(pwrite(fd, "ghost", 5, 0));
	put_file("hard", "fresh", 0644);
	char b[64] = "";
	T(pread(fd, b, 63, 0));
	printf("%s\n", b);
	print_file("hard");
	snprintf(b, sizeof b, "/proc/self/fd/%d", fd);
	char l[4096] = "";
	M(readlink(b, l, sizeof l - 1));
	printf("link ends in (deleted): %d\n", strstr(l, " (deleted)") != NULL);
	int again = open(b, O_RDONLY);
	T(read(again, l, 5));
	close(again);
	T(fchmod(fd, 0600));
	close(fd);
	/* A removed working directory. */
	M(mkdir("gone", 0755));
	M(chdir("gone"));
	M(rmdir("../gone"));
	T(open("x", O_CREAT | O_RDWR, 0600));
	T(mkdir("x", 0700));
	T(getcwd(l, sizeof l) ? 0 : -1);
	T(stat(".", &st));
	T(st.st_nlink);
	T(chdir(".."));
	print_file("hard");
	/* readlink. */
	T(readlink("dang", b, 3));
	T(readlink("hard", b, 3));
	T(readlink("dang", b, 0));
	T(readlink("missing", b, 3));
	/* Moving a tree with open files in it. */
	M(mkdir("p", 0755));
	M(mkdir("p/q", 0755));
	put_file("p/q/r", "deep", 0644);
	fd = M(open("p/q/r", O_RDONLY));
	int dfd = M(open("p/q", O_RDONLY | O_DIRECTORY));
	M(rename("p", "moved/p2"));
	print_file("moved/p2/q/r");
	T(openat(dfd, "r", O_RDONLY));
	T(mkdirat(dfd, "../s", 0755));
	printf("moved/p2/s is %s\n", what("moved/p2/s"));
	T(fchdir(dfd));
	M(getcwd(l, sizeof l) ? 0 : -1);
	printf("cwd ends right: %d\n", !strcmp(l + strlen(l) - 11, "moved/p2/q") || strstr(l, "/moved/p2/q") != NULL);
	return 0;
}
