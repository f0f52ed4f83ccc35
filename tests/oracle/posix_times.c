/* oracle: user root
 * Which times of the object and of its directory each call changes, for every type of object, and that a call that fails
 * changes none. Each line: what changed of the object, of its directory, of a second directory: A(ccess) M(odification) C(hange). */
#include "posix.h"

static struct stat before[4], after[4];
static const char *watched[4] = { "d/x", "d", "e", "e/y" };

static void look(struct stat *st)
{
	for (int i = 0; i < 4; i++)
		if (lstat(watched[i], &st[i])) memset(&st[i], 0, sizeof *st);
}
static char *moved(int i)
{
	static char b[4][8];
	char *o = b[i];
	if (!before[i].st_nlink || !after[i].st_nlink) return "-";
	struct timespec *x = &before[i].st_atim, *y = &after[i].st_atim;
	snprintf(b[i], 8, "%s%s%s.", memcmp(x, y, 16) ? "A" : "", memcmp(&before[i].st_mtim, &after[i].st_mtim, 16) ? "M" : "",
		 memcmp(&before[i].st_ctim, &after[i].st_ctim, 16) ? "C" : "");
	return o;
}

static void setup(int type)
{
	wipe();
	M(mkdir("d", 0755));
	M(mkdir("e", 0755));
	M(make(type, "d/x", 0644));
	if (type == FILE_) put_file("d/x", "0123456789", 0644);
	/* Access times far from the others, that relatime has something to do. */
	struct timespec ts[2] = { { 1000000, 1 }, { 1000000, 2 } };
	M(utimensat(AT_FDCWD, "d/x", ts, AT_SYMLINK_NOFOLLOW));
	M(utimensat(AT_FDCWD, "d", ts, 0));
	M(utimensat(AT_FDCWD, "e", ts, 0));
	/* Of a type that fits exchange and replacement. */
	M(make(type == DIR_ ? DIR_ : FILE_, "e/there", 0644));
	M(utimensat(AT_FDCWD, "e", ts, 0));
	look(before);
	msleep(12);
}

#define DO(type, ...)                                                            \
	do {                                                                     \
		setup(type);                                                     \
		errno = 0;                                                       \
		long r = (long)(__VA_ARGS__);                                    \
		int e = errno;                                                   \
		look(after);                                                     \
		printf("%s: %s: %s; object %s dir %s other %s new links %d\n", types[type], #__VA_ARGS__, r == -1 ? name_of(e) : "ok", moved(0), moved(1), moved(2), \
		       type == DIR_ ? 0 : (int)(after[0].st_nlink + after[3].st_nlink)); \
	} while (0)

static int with_fd(int flags, int (*f)(int))
{
	int fd = open("d/x", flags), e = 0, r;
	if (fd < 0) return -1;
	r = f(fd);
	e = errno;
	close(fd);
	errno = e;
	return r;
}
static char buf[16];
static int w0(int fd) { return write(fd, "x", 0); }
static int w1(int fd) { return write(fd, "x", 1); }
static int r1(int fd) { return read(fd, buf, 1); }
static int r0(int fd) { return read(fd, buf, 0); }
static int nothing(int fd) { return 0; }
static int tr_same(int fd) { return ftruncate(fd, 10); }
static int tr_less(int fd) { return ftruncate(fd, 3); }
static int tr_more(int fd) { return ftruncate(fd, 30); }
static int fa(int fd) { return fallocate(fd, 0, 0, 100); }
static int fak(int fd) { return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 100); }
static int punch(int fd) { return fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 5); }
static int pfa(int fd) { return posix_fallocate(fd, 0, 5) ? -1 : 0; }
static int fchm(int fd) { return fchmod(fd, 0600); }
static int fcho(int fd) { return fchown(fd, -1, getegid()); }
static int futi(int fd) { struct timespec t[2] = { { 5, 6 }, { 7, 8 } }; return futimens(fd, t); }
static int mapw(int fd)
{
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) return -1;
	p[0] = 'm';
	msync(p, 4096, MS_SYNC);
	return munmap(p, 4096);
}
static int setx(int fd) { return fsetxattr(fd, "user.t", "v", 1, 0); }
static int cfr(int fd)
{
	int in = open("e/there", O_RDWR);
	if (write(in, "abc", 3) != 3) return -1;
	lseek(in, 0, SEEK_SET);
	int r = copy_file_range(in, NULL, fd, NULL, 3, 0);
	close(in);
	return r;
}
int main(void)
{
	struct timespec ts[2] = { { 21, 22 }, { 23, 999999999 } }, now[2] = { { 0, UTIME_NOW }, { 0, UTIME_NOW } }, omit[2] = { { 0, UTIME_OMIT }, { 0, UTIME_OMIT } };
	struct timespec only_a[2] = { { 9, 9 }, { 0, UTIME_OMIT } }, only_m[2] = { { 0, UTIME_OMIT }, { 9, 9 } }, a_now[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } };
	struct stat st;
	umask(022);
	M(mkdir("w", 0755));
	M(chdir("w"));
	int last = geteuid() ? LINK_ : BLK_;
	for (int t = 0; t <= last; t++) {
		if (t != LINK_) {
			DO(t, chmod("d/x", 0600));
			DO(t, chmod("d/x", t == DIR_ ? 0755 : 0644));
			DO(t, access("d/x", R_OK));
		}
		DO(t, lchown("d/x", -1, getegid()));
		DO(t, lchown("d/x", -1, -1));
		/* A symbolic link of another owner becomes another file of the layer, which its directory shows. */
		if (!geteuid() && t != LINK_) DO(t, lchown("d/x", 1101, 1102));
		DO(t, utimensat(AT_FDCWD, "d/x", ts, AT_SYMLINK_NOFOLLOW));
		DO(t, utimensat(AT_FDCWD, "d/x", now, AT_SYMLINK_NOFOLLOW));
		DO(t, utimensat(AT_FDCWD, "d/x", omit, AT_SYMLINK_NOFOLLOW));
		DO(t, utimensat(AT_FDCWD, "d/x", only_a, AT_SYMLINK_NOFOLLOW));
		DO(t, utimensat(AT_FDCWD, "d/x", only_m, AT_SYMLINK_NOFOLLOW));
		DO(t, utimensat(AT_FDCWD, "d/x", a_now, AT_SYMLINK_NOFOLLOW));
		DO(t, rename("d/x", "d/x2"));
		DO(t, rename("d/x", "e/y"));
		DO(t, rename("d/x", "e/there"));
		DO(t, rename("d/x", "d/x"));
		DO(t, rename("d/x", "nowhere/x"));
		DO(t, syscall(SYS_renameat2, AT_FDCWD, "d/x", AT_FDCWD, "e/there", RENAME_EXCHANGE));
		DO(t, syscall(SYS_renameat2, AT_FDCWD, "d/x", AT_FDCWD, "e/there", RENAME_NOREPLACE));
		DO(t, link("d/x", "e/y"));
		DO(t, link("d/x", "e/there"));
		DO(t, link("e/there", "d/x"));
		DO(t, unlink("d/x"));
		DO(t, rmdir("d/x"));
		DO(t, erase("d/x"));
		DO(t, (link("d/x", "e/y"), unlink("e/y")));
		DO(t, lstat("d/x", &st));
		DO(t, mkdir("d/x", 0700));
		DO(t, symlink("a", "d/x"));
		DO(t, mkfifo("d/x", 0600));
	}
	for (int t = 0; t <= last; t++) DO(t, make(t, "d/made", 0644));
	DO(LINK_, readlink("d/x", buf, sizeof buf));
	DO(FILE_, with_fd(O_RDWR, nothing));
	DO(FILE_, with_fd(O_RDONLY | O_CREAT, nothing));
	DO(FILE_, with_fd(O_WRONLY | O_TRUNC, nothing));
	DO(FILE_, open("d/fresh", O_CREAT | O_WRONLY, 0600));
	DO(FILE_, open("d", O_TMPFILE | O_WRONLY, 0600));
	DO(FILE_, with_fd(O_RDWR, r1));
	DO(FILE_, with_fd(O_RDONLY, r1));
	DO(FILE_, with_fd(O_RDONLY, r0));
	DO(FILE_, with_fd(O_RDONLY | O_NOATIME, r1));
	DO(FILE_, with_fd(O_RDWR, w1));
	DO(FILE_, with_fd(O_RDWR, w0));
	DO(FILE_, with_fd(O_WRONLY | O_APPEND, w1));
	DO(FILE_, with_fd(O_RDWR, tr_same));
	DO(FILE_, with_fd(O_RDWR, tr_less));
	DO(FILE_, with_fd(O_RDWR, tr_more));
	DO(FILE_, with_fd(O_RDONLY, tr_more));
	DO(FILE_, with_fd(O_RDWR, fa));
	DO(FILE_, with_fd(O_RDWR, fak));
	DO(FILE_, with_fd(O_RDWR, punch));
	DO(FILE_, with_fd(O_RDWR, pfa));
	DO(FILE_, with_fd(O_RDONLY, fchm));
	DO(FILE_, with_fd(O_RDONLY, fcho));
	DO(FILE_, with_fd(O_RDONLY, futi));
	DO(FILE_, with_fd(O_RDWR, mapw));
	DO(FILE_, with_fd(O_RDWR, setx));
	DO(FILE_, with_fd(O_RDWR, cfr));
	DO(FILE_, truncate("d/x", 10));
	DO(FILE_, truncate("d/x", 3));
	DO(FILE_, truncate("d/x", 300));
	DO(FILE_, truncate("d/x", -1));
	DO(FILE_, removexattr("d/x", "user.none"));
	DO(FILE_, getxattr("d/x", "user.none", buf, 1));
	DO(DIR_, with_fd(O_RDONLY, fchm));
	DO(DIR_, with_fd(O_RDONLY, futi));
	DO(DIR_, mkdir("d/x/sub", 0700));
	DO(DIR_, open("d/x/sub", O_CREAT | O_WRONLY, 0700));
	/* Nanoseconds, far times and negative ones are kept as they are. */
	long secs[] = { 0, 1, -1, -1000, 1234567890, 2147483647, 2147483648, 4294967296, 15032385535 };
	wipe();
	put_file("f", "", 0600);
	M(mkdir("dd", 0700));
	M(symlink("f", "l"));
	for (int i = 0; i < 9; i++)
		for (int k = 0; k < 3; k++) {
			const char *n[] = { "f", "dd", "l" };
			struct timespec t[2] = { { secs[i], 123456789 }, { secs[i], 987654321 } };
			M(utimensat(AT_FDCWD, n[k], t, AT_SYMLINK_NOFOLLOW));
			M(lstat(n[k], &st));
			printf("%s %ld: %ld.%09ld %ld.%09ld\n", n[k], secs[i], (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
		}
	struct timespec bad[] = { { 0, -1 }, { 0, 1000000000 }, { 0, UTIME_NOW - 1 }, { -1, UTIME_NOW }, { -1, UTIME_OMIT } };
	for (int i = 0; i < 5; i++) {
		struct timespec t[2] = { { 1, 1 }, bad[i] }, u[2] = { bad[i], { 1, 1 } };
		T(utimensat(AT_FDCWD, "f", t, 0));
		T(utimensat(AT_FDCWD, "f", u, 0));
	}
	T(utimensat(AT_FDCWD, "missing", omit, 0));
	T(utimensat(AT_FDCWD, "f", ts, 0x80));
	T(syscall(SYS_utimensat, AT_FDCWD, "f", (void *)8, 0));
	struct timeval tv[2] = { { 5, 999999 }, { 6, 1 } };
	T(utimes("f", tv));
	tv[0].tv_usec = 1000000;
	T(utimes("f", tv));
	T(lutimes("l", NULL));
	M(stat("f", &st));
	printf("utimes: %ld.%09ld %ld.%09ld\n", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	return 0;
}
