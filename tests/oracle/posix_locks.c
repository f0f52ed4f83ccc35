/* oracle: user
 * Locks between processes: POSIX record locks, locks of open file descriptions, flock; who holds what, what closing, forking and
 * duplicating do, deadlock, and locks by different names of one file. (Leases are refused inside: see fcntl in the table.) */
#include "posix.h"
#include <sys/file.h>

static int lk(int fd, int cmd, int type, off_t at, off_t len)
{
	struct flock f = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = len };
	return fcntl(fd, cmd, &f);
}
static pid_t parent;
static void who(int fd, int cmd, int type, off_t at, off_t len)
{
	struct flock f = { .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = len };
	if (fcntl(fd, cmd, &f)) printf("getlk: %s\n", name_of(errno));
	else if (f.l_type == F_UNLCK) puts("getlk: free");
	else
		printf("getlk: %s from %ld length %ld by %s\n", f.l_type == F_RDLCK ? "read" : "write", (long)f.l_start, (long)f.l_len,
		       f.l_pid == parent ? "the parent" : f.l_pid == -1 ? "an open file description" : "another");
}
static int fresh(const char *p, int flags) { return M(open(p, flags)); }

int main(void)
{
	parent = getpid();
	put_file("f", "0123456789", 0600);
	M(link("f", "other"));
	int fd = fresh("f", O_RDWR), ro = fresh("f", O_RDONLY), wo = fresh("f", O_WRONLY);
	T(lk(fd, F_SETLK, F_WRLCK, 0, 5));
	T(lk(fd, F_SETLK, F_RDLCK, 3, 4));
	T(lk(ro, F_SETLK, F_WRLCK, 20, 1));
	T(lk(wo, F_SETLK, F_RDLCK, 20, 1));
	T(lk(fd, F_SETLK, 9, 0, 1));
	T(lk(fd, F_SETLK, F_WRLCK, -1, 1));
	T(lk(fd, F_SETLK, F_WRLCK, 10, -11));
	T(lk(99, F_SETLK, F_WRLCK, 0, 1));
	CHILD("by another name", int o = fresh("other", O_RDWR); who(o, F_GETLK, F_WRLCK, 0, 0); who(o, F_GETLK, F_RDLCK, 3, 1); who(o, F_GETLK, F_WRLCK, 7, 0);
	      T(lk(o, F_SETLK, F_RDLCK, 3, 2)); T(lk(o, F_SETLK, F_WRLCK, 0, 1)); T(lk(o, F_SETLK, F_WRLCK, 100, 0)));
	M(rename("f", "renamed"));
	CHILD("after rename", int o = fresh("renamed", O_RDWR); who(o, F_GETLK, F_WRLCK, 0, 1));
	/* Closing any descriptor of the file loses them. */
	close(fresh("renamed", O_RDONLY));
	CHILD("after any close", int o = fresh("other", O_RDWR); who(o, F_GETLK, F_WRLCK, 0, 0));
	/* Of open file descriptions. */
	int a = fresh("other", O_RDWR), b = fresh("other", O_RDWR);
	T(lk(a, F_OFD_SETLK, F_WRLCK, 0, 10));
	T(lk(b, F_OFD_SETLK, F_RDLCK, 5, 1));
	T(lk(fd, F_SETLK, F_WRLCK, 5, 1));
	who(b, F_OFD_GETLK, F_WRLCK, 0, 0);
	who(b, F_GETLK, F_WRLCK, 0, 0);
	int dupd = dup(a);
	close(a);
	T(lk(b, F_OFD_SETLK, F_RDLCK, 5, 1));
	CHILD("a child has them", T(lk(dupd, F_OFD_SETLK, F_WRLCK, 20, 1)); T(lk(dupd, F_OFD_SETLK, F_UNLCK, 5, 1)));
	T(lk(b, F_OFD_SETLK, F_RDLCK, 5, 1));
	close(dupd);
	T(lk(b, F_OFD_SETLK, F_WRLCK, 0, 0));
	T(lk(b, F_OFD_SETLK, F_UNLCK, 0, 0));
	/* flock. */
	int x = fresh("other", O_RDONLY), y = fresh("renamed", O_RDONLY);
	T(flock(x, LOCK_EX));
	T(flock(y, LOCK_EX | LOCK_NB));
	T(flock(y, LOCK_SH | LOCK_NB));
	T(flock(x, LOCK_SH));
	T(flock(y, LOCK_SH | LOCK_NB));
	T(flock(x, LOCK_EX | LOCK_NB));
	T(flock(y, LOCK_UN));
	T(flock(x, LOCK_EX | LOCK_NB));
	CHILD("a child shares it", T(flock(x, LOCK_EX | LOCK_NB)); T(flock(fresh("other", O_RDONLY), LOCK_SH | LOCK_NB)));
	T(flock(x, 0));
	T(flock(99, LOCK_SH));
	T(lk(fd, F_SETLK, F_WRLCK, 0, 0));
	/* Waiting: granted when the other lets go; ended by a signal; a circle is refused. */
	int p[2], q[2];
	char c;
	M(pipe(p));
	M(pipe(q));
	pid_t k = fork();
	if (!k) {
		int o = fresh("other", O_RDWR);
		M(write(p[1], "x", 1));
		T(lk(o, F_SETLKW, F_WRLCK, 0, 1));
		_exit(0);
	}
	M(read(p[0], &c, 1));
	msleep(50);
	puts("letting go");
	M(lk(fd, F_SETLK, F_UNLCK, 0, 0));
	reap("waiter", k);
	put_file("circle", "12", 0600);
	int e = fresh("circle", O_RDWR);
	M(lk(e, F_SETLK, F_WRLCK, 0, 1));
	k = fork();
	if (!k) {
		int o = fresh("circle", O_RDWR);
		M(lk(o, F_SETLK, F_WRLCK, 1, 1));
		M(write(p[1], "x", 1));
		M(lk(o, F_SETLKW, F_WRLCK, 0, 1));
		_exit(0);
	}
	M(read(p[0], &c, 1));
	msleep(100);
	T(lk(e, F_SETLKW, F_WRLCK, 1, 1));
	T(lk(e, F_SETLK, F_UNLCK, 0, 0));
	reap("other of the circle", k);
	int d = fresh(".", O_RDONLY | O_DIRECTORY);
	T(fcntl(d, F_SETLK, &(struct flock){ .l_type = F_RDLCK }));
	T(fcntl(d, F_SETLK, &(struct flock){ .l_type = F_WRLCK }));
	T(flock(d, LOCK_EX | LOCK_NB));
	T(flock(fresh(".", O_RDONLY | O_DIRECTORY), LOCK_EX | LOCK_NB));
	T(lockf(fd, F_TEST, 0));
	T(lockf(ro, F_TLOCK, 0));
	return 0;
}
