/* oracle: user
 * Data of files: holes, SEEK_HOLE and SEEK_DATA, the modes of fallocate, copy_file_range, clones, splice and sendfile, sizes and
 * limits, reading and writing at odd places, deleted and renamed while open, appending by several processes. */
#include "posix.h"
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

/* On tmpfs a hole ends at a page, on a disk at a block; both 4096 here. */
#define BLK 4096

static void sum(const char *what, int fd)
{
	static char b[1 << 16];
	struct stat st;
	unsigned h = 2166136261u;
	long n, total = 0;
	M(fstat(fd, &st));
	while ((n = pread(fd, b, sizeof b, total)) > 0) {
		for (long i = 0; i < n; i++) h = (h ^ (unsigned char)b[i]) * 16777619u;
		total += n;
	}
	printf("%s: size %ld read %ld hash %08x\n", what, (long)st.st_size, total, h);
}
static void holes(int fd)
{
	off_t at = 0, end = lseek(fd, 0, SEEK_END);
	printf("data:");
	while (at < end) {
		off_t d = lseek(fd, at, SEEK_DATA);
		if (d < 0) {
			printf(" %s", name_of(errno));
			break;
		}
		off_t h = lseek(fd, d, SEEK_HOLE);
		printf(" %ld-%ld", (long)d, (long)h);
		at = h;
	}
	puts("");
}
static void fill(int fd, off_t at, size_t n, char c)
{
	static char b[1 << 20];
	memset(b, c, n);
	M(pwrite(fd, b, n, at));
}

static void sparse(void)
{
	int fd = M(open("sparse", O_RDWR | O_CREAT | O_TRUNC, 0600));
	T(lseek(fd, 0, SEEK_DATA));
	T(lseek(fd, 0, SEEK_HOLE));
	fill(fd, 0, BLK, 'a');
	fill(fd, 16 * BLK, BLK, 'b');
	fill(fd, 1L << 33, 10, 'c');
	M(fsync(fd));
	holes(fd);
	struct stat st;
	M(fstat(fd, &st));
	printf("blocks fewer than the size %d\n", st.st_blocks < 1000);
	T(lseek(fd, -1, SEEK_DATA));
	T(lseek(fd, 1L << 40, SEEK_DATA));
	T(lseek(fd, 1L << 40, SEEK_HOLE));
	T(lseek(fd, 0, 9));
	T(lseek(fd, -5, SEEK_SET));
	T(lseek(fd, 1L << 62, SEEK_END));
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * BLK));
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, BLK));
	T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 16 * BLK + 10, 20));
	holes(fd);
	M(ftruncate(fd, 20 * BLK));
	sum("punched", fd);
	T(fallocate(fd, 0, 30 * BLK, BLK));
	T(fallocate(fd, FALLOC_FL_KEEP_SIZE, 100 * BLK, BLK));
	T(fallocate(fd, 0, 0, 0));
	T(fallocate(fd, 0, -1, 10));
	T(fallocate(fd, 0, 0, -1));
	T(fallocate(fd, 0, 1L << 62, 1L << 62));
	T(fallocate(fd, 0x1000, 0, BLK));
	T(posix_fallocate(fd, 0, 40 * BLK));
	T(posix_fallocate(fd, 0, 0));
	T(posix_fallocate(99, 0, 1));
	sum("allocated", fd);
	int ro = M(open("sparse", O_RDONLY)), ap = M(open("sparse", O_WRONLY | O_APPEND)), p[2];
	T(fallocate(ro, 0, 0, BLK));
	T(fallocate(ap, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BLK));
	M(pipe(p));
	T(fallocate(p[1], 0, 0, BLK));
	T(ftruncate(ro, 1));
	T(ftruncate(fd, -1));
	T(ftruncate(p[1], 1));
	int d = M(open(".", O_RDONLY));
	T(fallocate(d, 0, 0, BLK));
	T(ftruncate(d, 0));
	close(ro);
	close(ap);
	close(fd);
	close(d);
}

static void copies(void)
{
	int a = M(open("from", O_RDWR | O_CREAT | O_TRUNC, 0600)), b = M(open("to", O_RDWR | O_CREAT | O_TRUNC, 0600));
	for (int i = 0; i < 50; i++) fill(a, i * 1000, 1000, 'A' + i % 26);
	off_t x = 500, y = 100;
	T(copy_file_range(a, &x, b, &y, 20000, 0));
	printf("offsets %ld %ld\n", (long)x, (long)y);
	sum("copied", b);
	T(copy_file_range(a, NULL, b, NULL, 1 << 20, 0));
	sum("copied all", b);
	x = 0, y = 10;
	T(copy_file_range(a, &x, a, &y, 100, 0));
	y = 200000;
	T(copy_file_range(a, &x, a, &y, 100, 0));
	T(copy_file_range(a, &x, b, &y, 100, 1));
	int ro = M(open("to", O_RDONLY)), ap = M(open("to", O_WRONLY | O_APPEND)), wo = M(open("from", O_WRONLY)), d = M(open(".", O_RDONLY)), p[2];
	M(pipe(p));
	T(copy_file_range(a, NULL, ro, NULL, 10, 0));
	T(copy_file_range(wo, NULL, b, NULL, 10, 0));
	T(copy_file_range(a, NULL, ap, NULL, 10, 0));
	T(copy_file_range(a, NULL, p[1], NULL, 10, 0));
	T(copy_file_range(d, NULL, b, NULL, 10, 0));
	T(copy_file_range(a, NULL, d, NULL, 10, 0));
	T(copy_file_range(99, NULL, b, NULL, 10, 0));
	x = 1L << 40;
	T(copy_file_range(a, &x, b, NULL, 10, 0));
	T(ioctl(p[0], FICLONE, a));
	T(ioctl(b, FICLONE, 99));
	T(ioctl(b, FICLONE, p[0]));
	T(ioctl(ro, FICLONE, a));
	T(ioctl(b, FICLONE, wo));
	/* sendfile */
	M(lseek(a, 0, SEEK_SET));
	x = 10;
	T(sendfile(b, a, &x, 1000));
	printf("offset %ld position %ld\n", (long)x, (long)lseek(a, 0, SEEK_CUR));
	T(sendfile(b, a, NULL, 1000));
	printf("position %ld\n", (long)lseek(a, 0, SEEK_CUR));
	T(sendfile(p[1], a, NULL, 1000));
	T(sendfile(b, p[0], NULL, 10));
	T(sendfile(ap, a, NULL, 10));
	T(sendfile(ro, a, NULL, 10));
	T(sendfile(b, wo, NULL, 10));
	T(sendfile(b, d, NULL, 10));
	/* splice and tee */
	x = 3;
	T(splice(a, &x, p[1], NULL, 500, 0));
	T(splice(p[0], NULL, b, NULL, 1500, 0));
	T(splice(p[0], NULL, b, NULL, 1500, SPLICE_F_NONBLOCK));
	T(splice(a, NULL, b, NULL, 10, 0));
	T(splice(p[0], NULL, ap, NULL, 10, SPLICE_F_NONBLOCK));
	T(splice(p[0], &x, b, NULL, 10, 0));
	struct iovec v[3] = { { "one", 3 }, { "two", 3 }, { "three", 5 } };
	T(pwritev(b, v, 3, 7));
	T(pwritev2(b, v, 3, -1, 0));
	T(pwritev2(b, v, 3, 0, RWF_APPEND));
	T(pwritev2(b, v, 3, 0, RWF_SYNC | RWF_DSYNC));
	T(pwritev2(b, v, 3, 0, 0x8000));
	T(pwrite(b, "x", 1, -1));
	char c[10];
	T(pread(b, c, 1, -1));
	T(pread(b, c, 10, 1L << 40));
	T(readv(b, v, 1025));
	T(write(ro, "x", 1));
	T(read(wo, c, 1));
	T(read(d, c, 1));
	T(write(b, (void *)8, 10));
	T(write(b, (void *)8, 0));
	sum("at last", b);
	T(fsync(b));
	T(fdatasync(ro));
	T(fsync(d));
	T(syncfs(b));
	T(sync_file_range(b, 0, 100, 2));
	T(posix_fadvise(b, 0, 0, POSIX_FADV_DONTNEED));
	T(posix_fadvise(b, 0, 0, 99));
	T(posix_fadvise(p[0], 0, 0, 0));
	T(readahead(a, 0, 1000));
	T(readahead(wo, 0, 1000));
	for (int i = 3; i < 30; i++) close(i);
}

static void limits(void)
{
	struct rlimit l = { 10000, RLIM_INFINITY }, no = { RLIM_INFINITY, RLIM_INFINITY };
	signal(SIGXFSZ, SIG_IGN);
	int fd = M(open("limited", O_RDWR | O_CREAT | O_TRUNC, 0600));
	M(setrlimit(RLIMIT_FSIZE, &l));
	static char b[20000];
	T(write(fd, b, sizeof b));
	T(write(fd, b, 1));
	T(pwrite(fd, b, 10, 9995));
	T(ftruncate(fd, 10001));
	T(ftruncate(fd, 10000));
	T(truncate("limited", 10001));
	T(truncate("limited", 9000));
	T(fallocate(fd, 0, 0, 10001));
	T(open("limited", O_WRONLY | O_TRUNC));
	M(setrlimit(RLIMIT_FSIZE, &no));
	signal(SIGXFSZ, SIG_DFL);
	CHILD("SIGXFSZ", M(setrlimit(RLIMIT_FSIZE, &l)); M(truncate("limited", 20000)));
	T(truncate("limited", 1L << 50) == -1 && errno == EFBIG);
	close(fd);
}

static void gone(void)
{
	struct stat st;
	put_file("g", "0123456789", 0600);
	int fd = M(open("g", O_RDWR)), ro = M(open("g", O_RDONLY));
	M(link("g", "g2"));
	M(unlink("g"));
	M(fstat(fd, &st));
	printf("links %d\n", (int)st.st_nlink);
	M(rename("g2", "g3"));
	M(unlink("g3"));
	M(fstat(fd, &st));
	printf("links %d size %ld\n", (int)st.st_nlink, (long)st.st_size);
	T(ftruncate(fd, 20));
	T(fchmod(fd, 0640));
	T(fchown(fd, -1, getegid()));
	struct timespec ts[2] = { { 5, 6 }, { 7, 8 } };
	T(futimens(fd, ts));
	T(fsetxattr(fd, "user.a", "v", 1, 0));
	char b[64];
	T(fgetxattr(ro, "user.a", b, 64));
	T(flistxattr(ro, b, 64));
	T(fremovexattr(fd, "user.a"));
	T(fremovexattr(fd, "user.a"));
	M(fstat(ro, &st));
	printf("mode %o size %ld atime %ld.%09ld mtime %ld\n", st.st_mode, (long)st.st_size, (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, (long)st.st_mtim.tv_sec);
	char p[40], q[40];
	snprintf(p, 40, "/proc/self/fd/%d", ro);
	snprintf(q, 40, "/proc/self/fd/%d", fd);
	T(truncate(q, 5));
	T(chmod(q, 0600));
	T(access(q, R_OK));
	T(stat(p, &st));
	printf("size %ld\n", (long)st.st_size);
	int again = open(q, O_RDWR);
	printf("opened again: %s\n", again < 0 ? name_of(errno) : "ok");
	T(pwrite(again, "zz", 2, 0));
	T(pread(ro, b, 64, 0));
	T(linkat(AT_FDCWD, q, AT_FDCWD, "back", AT_SYMLINK_FOLLOW));
	T(linkat(fd, "", AT_FDCWD, "back", AT_EMPTY_PATH));
	/* O_TMPFILE gets a name once. */
	int t = M(open(".", O_TMPFILE | O_RDWR, 0640));
	M(write(t, "tmp", 3));
	snprintf(q, 40, "/proc/self/fd/%d", t);
	M(fstat(t, &st));
	printf("tmpfile links %d mode %o\n", (int)st.st_nlink, st.st_mode);
	T(linkat(AT_FDCWD, q, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	T(linkat(AT_FDCWD, q, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	T(linkat(AT_FDCWD, q, AT_FDCWD, "named2", AT_SYMLINK_FOLLOW));
	M(fstat(t, &st));
	printf("links %d\n", (int)st.st_nlink);
	print_file("named");
	T(unlink("named"));
	T(unlink("named2"));
	T(linkat(AT_FDCWD, q, AT_FDCWD, "named3", AT_SYMLINK_FOLLOW));
	int x = M(open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600));
	snprintf(q, 40, "/proc/self/fd/%d", x);
	T(linkat(AT_FDCWD, q, AT_FDCWD, "never", AT_SYMLINK_FOLLOW));
	/* A directory that is gone while open. */
	M(mkdir("dir", 0700));
	int d = M(open("dir", O_RDONLY | O_DIRECTORY));
	M(rmdir("dir"));
	M(fstat(d, &st));
	printf("directory links %d\n", (int)st.st_nlink);
	T(openat(d, "x", O_CREAT | O_RDWR, 0600));
	T(mkdirat(d, "x", 0700));
	T(symlinkat("x", d, "x"));
	T(linkat(AT_FDCWD, "from", d, "x", 0));
	T(renameat(AT_FDCWD, "from", d, "x"));
	T(fstatat(d, "x", &st, 0));
	T(fstatat(d, ".", &st, 0));
	T(openat(d, "..", O_PATH) < 0 ? -1 : 0);
	T(fchmod(d, 0755));
	T(futimens(d, ts));
	T(fchdir(d));
	T(getcwd(b, 64) ? 0 : -1);
	T(syscall(SYS_getdents64, d, b, 64));
	T(chdir("."));
	T(chdir(".."));
}

static void appending(void)
{
	int n = 4, each = 500;
	put_file("log", "", 0600);
	for (int i = 0; i < n; i++)
		if (!fork()) {
			int fd = M(open("log", O_WRONLY | O_APPEND));
			char line[64];
			memset(line, 'a' + i, 64);
			line[63] = '\n';
			for (int k = 0; k < each; k++) M(write(fd, line, 64));
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
	FILE *f = fopen("log", "r");
	char line[200];
	int good = 0, lines = 0;
	while (fgets(line, sizeof line, f)) {
		lines++;
		good += strlen(line) == 64 && strspn(line, (char[]){ line[0], 0 }) == 63;
	}
	fclose(f);
	printf("appended %d lines, whole %d\n", lines, good);
	int fd = M(open("log", O_RDWR | O_APPEND));
	T(pwrite(fd, "x", 1, 0));
	T(lseek(fd, 0, SEEK_CUR));
	T(lseek(fd, 0, SEEK_END));
	T(fcntl(fd, F_SETFL, 0));
	T(fcntl(fd, F_GETFL) & O_APPEND);
	T(pwrite(fd, "y", 1, 0));
	T(lseek(fd, 0, SEEK_END));
	/* A position shared over fork. */
	int sh = M(open("shared", O_RDWR | O_CREAT | O_TRUNC, 0600));
	CHILD("writer", M(write(sh, "child", 5)));
	M(write(sh, "parent", 6));
	print_file("shared");
}

int main(void)
{
	umask(022);
	sparse();
	copies();
	limits();
	gone();
	appending();
	return 0;
}
