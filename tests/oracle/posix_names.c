/* oracle: user root
 * What every call that takes a path says to paths that do not work: missing and wrong components, too long, loops, bad
 * addresses, empty, trailing slashes, every type of file at the end. As pjdfstest's files 02 to 08 of each call. */
#include "oracle.h"
#include <ftw.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <utime.h>

static const char *one_name[] = { "open", "open w", "open creat", "open excl", "open dir", "open nofollow", "open path", "openat creat nofollow",
	"open trunc", "tmpfile", "mkdir", "mkfifo", "mknod file", "mknod sock", "rmdir", "unlink", "unlink dir", "chmod", "chown", "lchown", "truncate",
	"utimensat", "utimensat nofollow", "utimensat now", "access", "access w", "access x", "stat", "lstat", "readlink", "chdir", "symlink at",
	"statfs", "getxattr", "lgetxattr", "setxattr", "listxattr", "removexattr", "exec", "creat", "chroot" };
enum { N1 = sizeof one_name / sizeof *one_name };

static long call1(int n, const char *p)
{
	struct stat st;
	struct statfs sf;
	char b[32];
	struct timespec ts[2] = { { 1, 2 }, { 3, 4 } };
	char *argv[] = { "x", NULL };
	int fd = -2;
	switch (n) {
	case 0: fd = open(p, O_RDONLY | O_NONBLOCK); break;
	case 1: fd = open(p, O_WRONLY | O_NONBLOCK); break;
	case 2: fd = open(p, O_RDWR | O_CREAT | O_NONBLOCK, 0644); break;
	case 3: fd = open(p, O_RDWR | O_CREAT | O_EXCL, 0644); break;
	case 4: fd = open(p, O_RDONLY | O_DIRECTORY); break;
	case 5: fd = open(p, O_RDONLY | O_NOFOLLOW | O_NONBLOCK); break;
	case 6: fd = open(p, O_PATH | O_NOFOLLOW); break;
	case 7: fd = openat(AT_FDCWD, p, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0644); break;
	case 8: fd = open(p, O_WRONLY | O_TRUNC | O_NONBLOCK); break;
	case 9: fd = open(p, O_WRONLY | O_TMPFILE, 0644); break;
	case 10: return mkdir(p, 0755);
	case 11: return mkfifo(p, 0644);
	case 12: return mknod(p, S_IFREG | 0644, 0);
	case 13: return mknod(p, S_IFSOCK | 0644, 0);
	case 14: return rmdir(p);
	case 15: return unlink(p);
	case 16: return unlinkat(AT_FDCWD, p, AT_REMOVEDIR);
	case 17: return chmod(p, 0755);
	case 18: return chown(p, geteuid(), getegid());
	case 19: return lchown(p, geteuid(), getegid());
	case 20: return truncate(p, 3);
	case 21: return utimensat(AT_FDCWD, p, ts, 0);
	case 22: return utimensat(AT_FDCWD, p, ts, AT_SYMLINK_NOFOLLOW);
	case 23: return syscall(SYS_utimensat, AT_FDCWD, p, NULL, 0);
	case 24: return access(p, F_OK);
	case 25: return access(p, W_OK);
	case 26: return access(p, X_OK);
	case 27: return stat(p, &st);
	case 28: return lstat(p, &st);
	case 29: return readlink(p, b, sizeof b) >= 0 ? 0 : -1;
	case 30: return chdir(p);
	case 31: return symlink("tgt", p);
	case 32: return statfs(p, &sf);
	case 33: return getxattr(p, "user.none", b, sizeof b);
	case 34: return lgetxattr(p, "user.none", b, sizeof b);
	case 35: return setxattr(p, "user.some", "x", 1, 0);
	case 36: return listxattr(p, NULL, 0) >= 0 ? 0 : -1;
	case 37: return removexattr(p, "user.none");
	case 38:
		if (p && !access(p, X_OK) && !chdir(p)) { /* a directory */
			fchdir(3);
		}
		return execve(p, argv, NULL);
	case 39: fd = (long)p > 4096 && !strcmp(p, "fifo") ? 0 : creat(p, 0644); break; /* a FIFO would wait for its reader */
	case 40: return geteuid() ? chroot(p) : (errno = 0, 0); /* root would be caught in it */
	}
	if (fd >= 0) close(fd), fd = 0;
	return fd;
}

static const char *two_names[] = { "link old", "link new", "link both", "rename old", "rename new", "rename both", "exchange old", "exchange new",
	"link follow", "noreplace new" };
enum { N2 = sizeof two_names / sizeof *two_names };

static long call2(int n, const char *p)
{
	switch (n) {
	case 0: return link(p, "made");
	case 1: return link("file", p);
	case 2: return link(p, p);
	case 3: return rename(p, "made");
	case 4: return rename("spare", p);
	case 5: return rename(p, p);
	case 6: return syscall(SYS_renameat2, AT_FDCWD, p, AT_FDCWD, "spare", RENAME_EXCHANGE);
	case 7: return syscall(SYS_renameat2, AT_FDCWD, "spare", AT_FDCWD, p, RENAME_EXCHANGE);
	case 8: return linkat(AT_FDCWD, p, AT_FDCWD, "made", AT_SYMLINK_FOLLOW);
	case 9: return syscall(SYS_renameat2, AT_FDCWD, "spare", AT_FDCWD, p, RENAME_NOREPLACE);
	}
	return 0;
}

/* Everything as it was before each call. */
static int gone(const char *p, const struct stat *st, int kind, struct FTW *f)
{
	return f->level ? remove(p) : 0;
}
static void build(void)
{
	M(nftw(".", gone, 8, FTW_DEPTH | FTW_PHYS));
	put_file("file", "#!/nonexistent\n", 0644);
	put_file("spare", "s", 0644);
	M(mkdir("dir", 0755));
	M(mkdir("full", 0755));
	M(mkdir("full/in", 0755));
	M(mkfifo("fifo", 0644));
	M(mknod("sock", S_IFSOCK | 0644, 0));
	M(symlink("file", "link"));
	M(symlink("dir", "dirlink"));
	M(symlink("nowhere", "dangling"));
	M(symlink("loop2", "loop1"));
	M(symlink("loop1", "loop2"));
	M(symlink("dir/../selfdir/x", "selfdir"));
}

int main(void)
{
	static char name255[300], name256[300], path4095[5000], path4096[5000], deep[5000];
	umask(022);
	memset(name255, 'n', 255);
	memset(name256, 'n', 256);
	for (int i = 0; i < 2046; i++) strcat(path4095, "./");
	strcpy(path4096, path4095);
	strcat(path4095, "new");
	strcat(path4096, "newx");
	snprintf(deep, sizeof deep, "%s/%s", name256, name255);
	struct { const char *label, *path; } p[] = {
		{ "missing", "new" }, { "missing/", "new/" }, { "missing/x", "new/x" }, { "missing/.", "new/." }, { "empty", "" },
		{ "null", (char *)0 }, { "bad address", (char *)8 },
		{ "file", "file" }, { "file/", "file/" }, { "file/x", "file/x" }, { "file/.", "file/." }, { "file/..", "file/.." },
		{ "fifo", "fifo" }, { "fifo/x", "fifo/x" }, { "fifo/", "fifo/" }, { "sock", "sock" }, { "sock/", "sock/" },
		{ "dir", "dir" }, { "dir/", "dir/" }, { "dir//", "dir//" }, { "dir/.", "dir/." }, { "dir/..", "dir/.." }, { "dir/x", "dir/new" }, { "dir/x/", "dir/new/" },
		{ "full", "full" }, { "full/", "full/" }, { "full/in", "full/in" }, { "full/in/..", "full/in/.." },
		{ "link", "link" }, { "link/", "link/" }, { "link/x", "link/x" }, { "dirlink", "dirlink" }, { "dirlink/", "dirlink/" }, { "dirlink/.", "dirlink/." },
		{ "dirlink/x", "dirlink/new" }, { "dangling", "dangling" }, { "dangling/", "dangling/" }, { "dangling/x", "dangling/x" },
		{ "loop", "loop1" }, { "loop/", "loop1/" }, { "loop/x", "loop1/x" }, { "selfdir", "selfdir" },
		{ "255", name255 }, { "256", name256 }, { "256/255", deep }, { "4095", path4095 }, { "4096", path4096 },
		{ ".", "." }, { "..", ".." }, { "/", "/" }, { "file/256", NULL }, { "missing/256", NULL }, { "dir/256", NULL },
	};
	char f[600], g[600], d[600];
	snprintf(f, sizeof f, "file/%s", name256);
	snprintf(g, sizeof g, "new/%s", name256);
	snprintf(d, sizeof d, "dir/%s", name256);
	int n = sizeof p / sizeof *p;
	p[n - 3].path = f;
	p[n - 2].path = g;
	p[n - 1].path = d;
	M(mkdir("top", 0755));
	M(mkdir("top/work", 0755));
	M(chdir("top/work"));
	if (open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) != 3) return 98;
	int dirty = 1;
	for (int i = 0; i < n; i++) {
		for (int k = 0; k < N1 + N2; k++) {
			/* Of other mounts inside than outside. */
			if (!strcmp(p[i].label, "/") && (k >= N1 || !geteuid())) continue;
			if (!strcmp(p[i].label, "..") || !strcmp(p[i].label, "/"))
				if (k == 17 || k == 18 || k == 19 || k == 35) continue;
			if (dirty) build();
			errno = 0;
			long r = k < N1 ? call1(k, p[i].path) : call2(k - N1, p[i].path);
			int e = errno;
			printf("%s %s: %s\n", p[i].label, k < N1 ? one_name[k] : two_names[k - N1], r == -1 ? name_of(e) : r ? "?" : "ok");
			dirty = r != -1;
			if (dirty) M(fchdir(3));
		}
		dirty = 1;
	}
	return 0;
}
