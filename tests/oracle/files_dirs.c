/* oracle: user root
 * Reading directories: many entries, seeking, changes while reading, raw getdents64. */
#include "oracle.h"
#include <dirent.h>

static int cmp(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }
static void list(const char *path)
{
	char *names[2000];
	int n = 0;
	DIR *d = opendir(path);
	if (!d) {
		printf("%s: %s\n", path, name_of(errno));
		return;
	}
	struct dirent *e;
	while ((e = readdir(d)) && n < 2000) {
		char b[300];
		snprintf(b, sizeof b, "%s%s", e->d_name,
			 e->d_type == DT_DIR ? "/" : e->d_type == DT_LNK ? "@" : e->d_type == DT_FIFO ? "|" : e->d_type == DT_SOCK ? "=" : e->d_type == DT_REG ? "" : "?");
		names[n++] = strdup(b);
	}
	closedir(d);
	qsort(names, n, sizeof *names, cmp);
	printf("%s:", path);
	if (n <= 12)
		for (int i = 0; i < n; i++) printf(" %s", names[i]);
	else
		printf(" %d entries, %s ... %s", n, names[0], names[n - 1]);
	printf("\n");
}

int main(void)
{
	char b[64];
	M(mkdir("d", 0755));
	list("d");
	for (int i = 0; i < 1000; i++) {
		snprintf(b, sizeof b, "d/file-%04d", i);
		put_file(b, "", 0644);
	}
	list("d");
	M(mkdir("k", 0755));
	M(mkdir("k/dir", 0755));
	put_file("k/reg", "", 0644);
	put_file("k/.hidden", "", 0644);
	M(symlink("x", "k/sym"));
	M(mkfifo("k/fifo", 0600));
	int s = M(socket(AF_UNIX, SOCK_STREAM, 0));
	struct sockaddr_un un = { .sun_family = AF_UNIX, .sun_path = "k/sock" };
	M(bind(s, (void *)&un, sizeof un));
	list("k");
	list("k/reg");
	list("missing");

	/* telldir and seekdir come back to the same entry. */
	DIR *d = opendir("d");
	long pos[1100];
	char *name[1100];
	int n = 0;
	struct dirent *e;
	for (;;) {
		pos[n] = telldir(d);
		e = readdir(d);
		if (!e) break;
		name[n++] = strdup(e->d_name);
	}
	printf("read %d\n", n);
	int wrong = 0;
	for (int i = 0; i < n; i += 97) {
		seekdir(d, pos[i]);
		e = readdir(d);
		if (!e || strcmp(e->d_name, name[i])) wrong++;
	}
	printf("seekdir wrong %d\n", wrong);
	rewinddir(d);
	int again = 0;
	while (readdir(d)) again++;
	printf("after rewind %d\n", again);
	/* Unlinking while reading misses nothing. */
	rewinddir(d);
	int gone = 0;
	while ((e = readdir(d))) {
		if (e->d_name[0] == '.') continue;
		if (unlinkat(dirfd(d), e->d_name, 0) == 0) gone++;
	}
	closedir(d);
	printf("removed %d\n", gone);
	list("d");
	/* A file made before a rewind is seen. */
	d = opendir("d");
	while (readdir(d))
		;
	put_file("d/late", "", 0644);
	rewinddir(d);
	again = 0;
	while ((e = readdir(d))) again += !strcmp(e->d_name, "late");
	printf("late seen %d\n", again);
	closedir(d);

	int fd = M(open("k", O_RDONLY | O_DIRECTORY));
	char buf[4096];
	T(syscall(SYS_getdents64, fd, buf, 10));
	T(syscall(SYS_getdents64, fd, (char *)8, 4096));
	T(lseek(fd, 0, SEEK_SET));
	long r = syscall(SYS_getdents64, fd, buf, sizeof buf);
	int count = 0, dots = 0, inodes = 0;
	for (long o = 0; o < r;) {
		struct dirent64 *de = (void *)(buf + o);
		count++;
		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..")) dots++;
		else {
			struct stat st;
			if (!fstatat(fd, de->d_name, &st, AT_SYMLINK_NOFOLLOW) && st.st_ino == de->d_ino) inodes++;
		}
		if (de->d_reclen % 8) printf("unaligned\n");
		o += de->d_reclen;
	}
	printf("count %d dots %d inode numbers agree with stat %d\n", count, dots, inodes);
	T(syscall(SYS_getdents64, fd, buf, sizeof buf));
	int f2 = M(dup(fd));
	T(lseek(f2, 0, SEEK_SET));
	OK(syscall(SYS_getdents64, fd, buf, sizeof buf));
	/* From the start: behind the entries the position itself may be what read refuses. */
	T(lseek(fd, 0, SEEK_SET));
	T(read(fd, buf, 1));
	T(write(fd, buf, 1));
	close(fd);
	/* Small buffers give everything too. */
	fd = M(open("k", O_RDONLY | O_DIRECTORY));
	count = 0;
	while ((r = syscall(SYS_getdents64, fd, buf, 40)) > 0)
		for (long o = 0; o < r; count++) o += ((struct dirent64 *)(buf + o))->d_reclen;
	printf("in small steps %d\n", count);
	close(fd);
	fd = M(open("k/reg", O_RDONLY));
	T(syscall(SYS_getdents64, fd, buf, sizeof buf));
	T(syscall(SYS_getdents64, 77, buf, sizeof buf));
	/* An open directory that was removed. */
	M(mkdir("r", 0755));
	d = opendir("r");
	M(rmdir("r"));
	T(readdir(d) == NULL);
	T(openat(dirfd(d), "x", O_CREAT | O_RDWR, 0600));
	closedir(d);
	return 0;
}
