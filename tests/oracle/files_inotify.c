/* oracle: user
 * inotify: what is said about a watched directory and file. */
#include "oracle.h"
#include <sys/inotify.h>

static int in;
static void drain(const char *what)
{
	char b[8192] __attribute__((aligned(8)));
	struct pollfd p = { in, POLLIN, 0 };
	printf("%s:", what);
	while (poll(&p, 1, 150) > 0) {
		long n = read(in, b, sizeof b);
		for (long o = 0; o < n;) {
			struct inotify_event *e = (void *)(b + o);
			printf(" %d:%x%s%s", e->wd, e->mask, e->len ? "=" : "", e->len ? e->name : "");
			o += sizeof *e + e->len;
		}
	}
	printf("\n");
}

int main(void)
{
	M(mkdir("d", 0755));
	put_file("d/f", "x", 0644);
	in = T(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	T(inotify_add_watch(in, "d", IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_DELETE_SELF));
	T(inotify_add_watch(in, "missing", IN_ALL_EVENTS));
	T(inotify_add_watch(in, "d/f", IN_MODIFY | IN_ONLYDIR));
	T(inotify_add_watch(in, "d", 0));
	T(inotify_add_watch(99, "d", IN_CREATE));
	char b[8];
	T(read(in, b, 8));
	int fd = M(open("d/new", O_CREAT | O_WRONLY, 0644));
	drain("create");
	M(write(fd, "x", 1));
	drain("write");
	close(fd);
	drain("close");
	M(chmod("d/new", 0600));
	drain("chmod");
	M(rename("d/new", "d/other"));
	drain("rename");
	M(rename("d/other", "out"));
	drain("move out");
	M(rename("out", "d/back"));
	drain("move in");
	M(mkdir("d/sub", 0755));
	drain("mkdir");
	M(rmdir("d/sub"));
	drain("rmdir");
	M(unlink("d/back"));
	drain("unlink");
	M(symlink("x", "d/sym"));
	drain("symlink");
	CHILD("in a child", put_file("d/f", "more", 0644));
	drain("child wrote");
	T(inotify_add_watch(in, "d/f", IN_DELETE_SELF | IN_MODIFY));
	fd = M(open("d/f", O_WRONLY | O_APPEND));
	M(write(fd, "y", 1));
	close(fd);
	drain("two watches");
	T(inotify_rm_watch(in, 2));
	drain("removed");
	T(inotify_rm_watch(in, 77));
	M(unlink("d/f"));
	M(unlink("d/sym"));
	drain("unlinks");
	M(rmdir("d"));
	drain("directory gone");
	return 0;
}
