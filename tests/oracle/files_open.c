/* oracle: user root
 * open and friends: flags, errors, offsets, descriptors. */
#include "oracle.h"

#define O(path, flags)                                   \
	do {                                             \
		int fd = T(open(path, flags, 0644));     \
		if (fd >= 0) close(fd);                  \
	} while (0)

int main(void)
{
	char b[32];
	struct stat st;
	umask(022);
	M(mkdir("d", 0755));
	M(mkdir("d/sub", 0755));
	put_file("f", "hello", 0644);
	M(symlink("f", "ln"));
	M(symlink("missing", "dangling"));
	M(symlink("d", "dl"));
	M(symlink("loop2", "loop1"));
	M(symlink("loop1", "loop2"));
	M(symlink("d/sub/../../f", "far"));
	O("f", O_RDONLY);
	O("f", O_RDWR | O_CREAT | O_EXCL);
	O("new", O_RDWR | O_CREAT | O_EXCL);
	O("new", O_RDONLY | O_DIRECTORY);
	O("d", O_RDONLY);
	O("d", O_RDONLY | O_DIRECTORY);
	O("d", O_WRONLY);
	O("d", O_RDWR | O_CREAT);
	O("d", O_RDONLY | O_CREAT);
	O("d", O_RDONLY | O_TRUNC);
	O("missing", O_RDONLY);
	O("missing/x", O_RDONLY | O_CREAT);
	O("f/x", O_RDONLY);
	O("f/", O_RDONLY);
	O("f/.", O_RDONLY);
	O("new2/", O_RDWR | O_CREAT);
	O("d/", O_RDONLY);
	O("d//sub/.././../f", O_RDONLY);
	O("", O_RDONLY);
	O(".", O_RDONLY);
	O("..", O_RDONLY | O_DIRECTORY);
	O("/..", O_RDONLY | O_DIRECTORY);
	O("/../../../etc/passwd", O_RDONLY);
	O("ln", O_RDONLY | O_NOFOLLOW);
	O("ln", O_RDONLY);
	O("ln/", O_RDONLY);
	O("far", O_RDONLY);
	O("dl", O_RDONLY | O_NOFOLLOW);
	O("dl/", O_RDONLY | O_NOFOLLOW);
	O("dl/sub", O_RDONLY | O_NOFOLLOW);
	O("dl", O_RDONLY | O_NOFOLLOW | O_DIRECTORY);
	O("loop1", O_RDONLY);
	O("loop1", O_RDONLY | O_NOFOLLOW);
	O("dangling", O_RDONLY);
	O("dangling", O_RDWR | O_CREAT | O_EXCL);
	O("dangling", O_RDWR | O_CREAT);
	T(stat("missing", &st));
	O("ln", O_RDWR | O_CREAT | O_EXCL);
	O("f", O_PATH);
	O("ln", O_PATH | O_NOFOLLOW);
	O("dangling2", O_PATH);
	O("f", O_WRONLY | O_RDWR);
	O("/dev/null", O_RDWR | O_TRUNC);
	O("/dev/null", O_RDONLY | O_DIRECTORY);
	O("/dev/tty_missing", O_RDONLY);
	O((char *)8, O_RDONLY);
	char name[300];
	memset(name, 'n', sizeof name);
	name[255] = 0;
	OK(open(name, O_CREAT | O_RDWR, 0600));
	close(3);
	name[255] = 'n';
	name[256] = 0;
	T(open(name, O_CREAT | O_RDWR, 0600));
	char *path = malloc(5000);
	for (int i = 0; i < 5000; i += 2) memcpy(path + i, "./", 2);
	path[4094] = 'f';
	path[4095] = 0;
	T(access(path, F_OK));
	path[4095] = 'f';
	path[4096] = 0;
	T(access(path, F_OK));

	/* O_PATH gives a handle that only names. */
	int p = M(open("f", O_PATH));
	T(read(p, b, 1));
	T(write(p, b, 1));
	T(fchmod(p, 0600));
	T(fchown(p, -1, -1));
	T(ioctl(p, 0));
	T(fstat(p, &st));
	printf("mode %o size %ld\n", st.st_mode, (long)st.st_size);
	T(fcntl(p, F_GETFL));
	T(mmap(NULL, 4096, PROT_READ, MAP_SHARED, p, 0) == MAP_FAILED ? -1 : 0);
	T(lseek(p, 0, SEEK_SET));
	T(fsync(p));
	snprintf(b, sizeof b, "/proc/self/fd/%d", p);
	int q = open(b, O_RDONLY);
	printf("reopened through /proc: %ld\n", (long)read(q, b, 5));
	close(q);
	close(p);
	p = M(open("ln", O_PATH | O_NOFOLLOW));
	T(readlinkat(p, "", b, sizeof b));
	M(fstat(p, &st));
	printf("is a link: %d\n", S_ISLNK(st.st_mode));
	close(p);
	p = M(open("d", O_PATH));
	T(openat(p, "sub", O_RDONLY | O_DIRECTORY));
	close(4);
	T(openat(p, "../f", O_RDONLY));
	close(4);
	T(fchdir(p));
	T(chdir(".."));
	close(p);
	p = M(open("f", O_RDONLY));
	T(openat(p, "x", O_RDONLY));
	T(openat(p, "", O_RDONLY));
	T(openat(99, "x", O_RDONLY));
	T(openat(99, "/dev/null", O_RDONLY));
	close(4);
	T(write(p, "x", 1));
	T(fcntl(p, F_GETFL) & O_ACCMODE);
	T(fcntl(p, F_GETFD));
	T(ftruncate(p, 0));
	close(p);

	/* Append, truncate, shared offsets. */
	p = M(open("f", O_WRONLY | O_APPEND));
	T(write(p, " world", 6));
	T(lseek(p, 0, SEEK_CUR));
	T(lseek(p, 0, SEEK_SET));
	T(write(p, "!", 1));
	T(pwrite(p, "?", 1, 0));
	T(read(p, b, 1));
	close(p);
	print_file("f");
	p = M(open("f", O_RDWR | O_TRUNC));
	M(fstat(p, &st));
	T(st.st_size);
	T(pwrite(p, "xyz", 3, 10));
	T(pread(p, b, 20, 0));
	T(lseek(p, -1, SEEK_SET));
	T(lseek(p, 5, SEEK_END));
	T(lseek(p, 0, 77));
	T(lseek(p, 0, SEEK_HOLE));
	T(lseek(p, 100, SEEK_DATA));
	int dupped = M(dup(p));
	T(lseek(dupped, 2, SEEK_SET));
	T(lseek(p, 0, SEEK_CUR));
	CHILD("offset is shared with a child", lseek(p, 7, SEEK_SET));
	T(lseek(dupped, 0, SEEK_CUR));
	close(dupped);
	close(p);

	/* umask and creation modes. */
	int masks[] = { 0, 022, 027, 077, 0777 };
	for (int i = 0; i < 5; i++) {
		umask(masks[i]);
		unlink("m");
		p = M(open("m", O_CREAT | O_RDWR | O_EXCL, 07777));
		M(fstat(p, &st));
		printf("umask %03o: file %o", masks[i], st.st_mode);
		close(p);
		rmdir("md");
		M(mkdir("md", 01777));
		M(stat("md", &st));
		printf(" directory %o\n", st.st_mode);
	}
	umask(022);
	unlink("m");
	/* The mode of a fresh file does not bind the descriptor that made it. */
	p = M(open("m", O_CREAT | O_RDWR, 0));
	T(write(p, "ok", 2));
	close(p);
	if (getuid()) O("m", O_RDONLY);
	M(mkdir("dir0", 0));
	if (getuid()) O("dir0/x", O_CREAT | O_RDWR);
	if (getuid()) O("dir0/../f", O_RDONLY);
	M(chmod("dir0", 0444));
	if (getuid()) O("dir0/x", O_RDONLY);
	M(chmod("dir0", 0111));
	if (getuid()) O("dir0", O_RDONLY | O_DIRECTORY);
	O("dir0/x", O_RDONLY);

	/* O_TMPFILE. */
	p = T(open(".", O_TMPFILE | O_RDWR, 0640));
	T(write(p, "tmp", 3));
	M(fstat(p, &st));
	printf("links %ld mode %o\n", (long)st.st_nlink, st.st_mode);
	snprintf(b, sizeof b, "/proc/self/fd/%d", p);
	T(linkat(AT_FDCWD, b, AT_FDCWD, "tmpname", AT_SYMLINK_FOLLOW));
	M(fstat(p, &st));
	printf("links %ld\n", (long)st.st_nlink);
	close(p);
	print_file("tmpname");
	O(".", O_TMPFILE | O_RDONLY);
	O("f", O_TMPFILE | O_RDWR);
	p = M(open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600));
	snprintf(b, sizeof b, "/proc/self/fd/%d", p);
	T(linkat(AT_FDCWD, b, AT_FDCWD, "never", AT_SYMLINK_FOLLOW));
	close(p);
	T(creat("made", 0600));
	T(close(3));
	T(close(3));
	return 0;
}
