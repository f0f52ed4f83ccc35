/* oracle: user root
 * stat, statx, chmod, utimensat, truncate, access and their errors. */
#include "oracle.h"
#include <sys/sysmacros.h>
#include <sys/statfs.h>

static void show(const char *p)
{
	struct stat st;
	if (lstat(p, &st)) printf("%s: %s\n", p, name_of(errno));
	else
		printf("%s: mode %o links %ld size %ld owner %s group %s blksize %d\n", p, st.st_mode,
		       S_ISDIR(st.st_mode) ? 0l : (long)st.st_nlink, S_ISDIR(st.st_mode) ? 0l : (long)st.st_size,
		       st.st_uid == geteuid() ? "me" : "other", st.st_gid == getegid() ? "mine" : "other", st.st_blksize > 0);
}

int main(void)
{
	struct stat st;
	umask(022);
	put_file("f", "0123456789", 0644);
	M(mkdir("d", 0755));
	M(symlink("f", "ln"));
	show("f");
	show("d");
	show("ln");
	int modes[] = { 0, 0777, 04755, 02755, 01755, 07777, 0644 };
	for (int i = 0; i < 7; i++) {
		printf("chmod %o: %s; ", modes[i], chmod("f", modes[i]) ? name_of(errno) : "ok");
		show("f");
	}
	M(chmod("d", 02775));
	show("d");
	M(mkdir("d/inherits", 0755));
	show("d/inherits");
	T(chmod("ln", 0600));
	show("f");
	show("ln");
	T(chmod("missing", 0600));
	T(fchmodat(AT_FDCWD, "ln", 0600, AT_SYMLINK_NOFOLLOW));
	int fd = M(open("f", O_RDWR));
	T(fchmod(fd, 0640));
	show("f");
	T(fstatat(fd, "", &st, AT_EMPTY_PATH));
	T(fstatat(fd, "", &st, 0));
	T(fstatat(AT_FDCWD, "", &st, AT_EMPTY_PATH));
	printf("directory: %d\n", S_ISDIR(st.st_mode));
	T(fstatat(AT_FDCWD, "ln", &st, AT_SYMLINK_NOFOLLOW));
	T(fstatat(AT_FDCWD, "ln", &st, 0x40000000));
	T(fstat(99, &st));
	T(stat("f", (struct stat *)8));

	struct statx sx;
	T(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &sx));
	printf("statx: mode %o links %u size %llu mask %d\n", sx.stx_mode, sx.stx_nlink, (unsigned long long)sx.stx_size,
	       (sx.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
	T(stat("f", &st));
	printf("statx agrees with stat: ino %d dev %d mtime %d\n", sx.stx_ino == st.st_ino,
	       makedev(sx.stx_dev_major, sx.stx_dev_minor) == st.st_dev, sx.stx_mtime.tv_nsec == st.st_mtim.tv_nsec);
	T(statx(AT_FDCWD, "f", 0, 0x80000000, &sx));
	T(statx(AT_FDCWD, "missing", 0, STATX_BASIC_STATS, &sx));
	T(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx));
	T(statx(AT_FDCWD, "f", 0x40000000, STATX_BASIC_STATS, &sx));
	T(statx(AT_FDCWD, "f", AT_STATX_SYNC_TYPE, STATX_BASIC_STATS, &sx));

	struct timespec ts[2] = { { 1000, 111 }, { 2000, 222 } };
	T(utimensat(AT_FDCWD, "f", ts, 0));
	M(stat("f", &st));
	printf("atime %ld.%ld mtime %ld.%ld\n", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, (long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	ts[0].tv_nsec = UTIME_OMIT;
	ts[1].tv_sec = 3000;
	T(utimensat(AT_FDCWD, "f", ts, 0));
	ts[0].tv_nsec = UTIME_NOW;
	ts[1].tv_nsec = UTIME_OMIT;
	T(utimensat(AT_FDCWD, "f", ts, 0));
	M(stat("f", &st));
	printf("atime now %d mtime %ld\n", st.st_atime > 1000000, (long)st.st_mtime);
	ts[0].tv_nsec = 1000000000;
	T(utimensat(AT_FDCWD, "f", ts, 0));
	ts[0] = (struct timespec){ 5, 0 };
	ts[1] = (struct timespec){ 6, 0 };
	T(utimensat(AT_FDCWD, "ln", ts, AT_SYMLINK_NOFOLLOW));
	M(lstat("ln", &st));
	printf("link mtime %ld\n", (long)st.st_mtime);
	T(futimens(fd, ts));
	M(fstat(fd, &st));
	printf("mtime %ld\n", (long)st.st_mtime);
	T(utimensat(AT_FDCWD, "d", ts, 0));
	M(stat("d", &st));
	printf("directory mtime %ld\n", (long)st.st_mtime);
	put_file("d/touch", "", 0600);
	M(stat("d", &st));
	printf("directory mtime moved %d\n", st.st_mtime > 6);
	T(utimensat(AT_FDCWD, "missing", ts, 0));
	T(utimensat(AT_FDCWD, NULL, ts, 0));
	ts[0].tv_sec = -5;
	T(utimensat(AT_FDCWD, "f", ts, 0));
	T(utimes("f", NULL));

	T(truncate("f", 3));
	show("f");
	T(truncate("f", 100));
	show("f");
	T(truncate("f", -1));
	T(truncate("d", 0));
	T(truncate("missing", 0));
	T(truncate("ln", 5));
	T(ftruncate(fd, 7));
	show("f");
	T(fallocate(fd, 0, 0, 50));
	show("f");
	T(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 100));
	show("f");
	close(fd);

	T(access("f", F_OK));
	T(access("f", R_OK | W_OK));
	T(access("f", X_OK));
	M(chmod("f", 0));
	if (getuid()) {
		T(access("f", R_OK));
		T(access("f", W_OK));
		T(open("f", O_RDONLY));
		T(truncate("f", 0));
	}
	T(access("f", F_OK));
	M(chmod("f", 0100));
	T(access("f", X_OK));
	T(access("f", 8));
	T(access("missing", F_OK));
	T(access("f/x", F_OK));
	T(access("ln", F_OK));
	T(faccessat(AT_FDCWD, "ln", F_OK, AT_SYMLINK_NOFOLLOW));
	T(faccessat(AT_FDCWD, "f", F_OK, AT_EACCESS));
	T(access("/etc/passwd", R_OK));
	if (getuid()) {
		T(access("/etc/passwd", W_OK));
		T(access("/etc/shadow", R_OK));
		T(open("/etc/passwd", O_WRONLY));
		T(open("/new-file", O_CREAT | O_WRONLY, 0600));
		T(unlink("/etc/passwd"));
		T(rename("/etc/passwd", "/etc/passwd2"));
		T(mkdir("/newdir", 0700));
		T(chmod("/etc/passwd", 0777));
		T(chown("f", 0, -1));
		T(chown("f", -1, -1));
		T(chown("f", getuid(), getgid()));
		T(chown("/etc/passwd", getuid(), -1));
		T(utimensat(AT_FDCWD, "/etc/passwd", NULL, 0));
	}
	struct statfs sf;
	T(statfs(".", &sf));
	printf("block size positive %d name length %ld\n", sf.f_bsize > 0, (long)sf.f_namelen);
	T(statfs("missing", &sf));
	const char *devs[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx" };
	for (int i = 0; i < 7; i++) {
		int r = stat(devs[i], &st);
		if (r) printf("%s: %s\n", devs[i], name_of(errno));
		else printf("%s: char %d %d:%d\n", devs[i], S_ISCHR(st.st_mode), major(st.st_rdev), minor(st.st_rdev));
	}
	char b[16];
	fd = M(open("/dev/full", O_RDWR));
	T(write(fd, "x", 1));
	T(read(fd, b, 16));
	close(fd);
	fd = M(open("/dev/zero", O_RDWR));
	memset(b, 1, 16);
	T(read(fd, b, 16));
	printf("%d\n", b[15]);
	void *z = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	printf("map of zero %d\n", z != MAP_FAILED && *(char *)z == 0);
	close(fd);
	fd = M(open("/dev/null", O_RDWR));
	T(read(fd, b, 16));
	T(write(fd, b, 16));
	close(fd);
	fd = M(open("/dev/urandom", O_RDONLY));
	T(read(fd, b, 16));
	T(ioctl(fd, 0x5401, b));
	return 0;
}
