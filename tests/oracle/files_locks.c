/* oracle: user
 * flock and fcntl record locks, also of open file descriptions, between processes; leases of nothing. */
#include "oracle.h"
#include <sys/file.h>

static struct flock fl(int type, off_t start, off_t len)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
}
static int lk(int fd, int cmd, int type, off_t start, off_t len)
{
	struct flock f = fl(type, start, len);
	return fcntl(fd, cmd, &f);
}

int main(void)
{
	put_file("f", "0123456789", 0644);
	int fd = M(open("f", O_RDWR));
	T(flock(fd, LOCK_EX));
	CHILD("flock", {
		int c = M(open("f", O_RDWR));
		T(flock(c, LOCK_EX | LOCK_NB));
		T(flock(c, LOCK_SH | LOCK_NB));
		T(flock(fd, LOCK_EX | LOCK_NB));
	});
	T(flock(fd, LOCK_SH));
	CHILD("flock shared", { int c = M(open("f", O_RDWR)); T(flock(c, LOCK_SH | LOCK_NB)); T(flock(c, LOCK_EX | LOCK_NB)); });
	T(flock(fd, LOCK_UN));
	T(flock(fd, 99));
	T(flock(99, LOCK_EX));

	T(lk(fd, F_SETLK, F_WRLCK, 2, 3));
	CHILD("fcntl", {
		T(lk(fd, F_SETLK, F_WRLCK, 0, 2));
		T(lk(fd, F_SETLK, F_WRLCK, 4, 2));
		T(lk(fd, F_SETLK, F_RDLCK, 2, 1));
		struct flock f = fl(F_WRLCK, 0, 0);
		T(fcntl(fd, F_GETLK, &f));
		printf("conflict: type %d start %ld len %ld pid is parent %d\n", f.l_type, (long)f.l_start, (long)f.l_len, f.l_pid == getppid());
	});
	T(lk(fd, F_SETLK, F_UNLCK, 3, 1));
	CHILD("split", { T(lk(fd, F_SETLK, F_WRLCK, 3, 1)); T(lk(fd, F_SETLK, F_WRLCK, 2, 1)); T(lk(fd, F_SETLK, F_WRLCK, 4, 1)); });
	T(lk(fd, F_SETLK, F_UNLCK, 0, 0));
	/* Waiting until the holder exits. */
	int p[2];
	M(pipe(p));
	pid_t h = fork();
	if (h == 0) {
		lk(fd, F_SETLK, F_WRLCK, 0, 0);
		if (write(p[1], "x", 1) != 1) _exit(1);
		msleep(80);
		_exit(0);
	}
	char c;
	M(read(p[0], &c, 1));
	T(lk(fd, F_SETLK, F_WRLCK, 0, 0));
	T(lk(fd, F_SETLKW, F_WRLCK, 0, 0));
	reap("holder", h);
	/* Closing any descriptor drops the process's record locks. */
	int other = M(open("f", O_RDONLY));
	close(other);
	CHILD("dropped by close", T(lk(fd, F_SETLK, F_WRLCK, 0, 0)));
	/* Deadlock. */
	T(lk(fd, F_SETLK, F_WRLCK, 0, 1));
	h = fork();
	if (h == 0) {
		lk(fd, F_SETLK, F_WRLCK, 1, 1);
		if (write(p[1], "x", 1) != 1) _exit(1);
		int r = lk(fd, F_SETLKW, F_WRLCK, 0, 1);
		_exit(r == 0 ? 0 : 1);
	}
	M(read(p[0], &c, 1));
	msleep(80);
	T(lk(fd, F_SETLKW, F_WRLCK, 1, 1));
	T(lk(fd, F_SETLK, F_UNLCK, 0, 1));
	reap("other side", h);
	/* Locks of open file descriptions. */
	int a = M(open("f", O_RDWR)), b = M(open("f", O_RDWR));
	T(lk(a, F_OFD_SETLK, F_WRLCK, 0, 5));
	T(lk(b, F_OFD_SETLK, F_WRLCK, 0, 5));
	T(lk(b, F_OFD_SETLK, F_WRLCK, 5, 5));
	CHILD("shares the description", T(lk(a, F_OFD_SETLK, F_WRLCK, 0, 5)));
	close(a);
	T(lk(b, F_OFD_SETLK, F_WRLCK, 0, 5));
	int r = M(open("f", O_RDONLY));
	T(lk(r, F_SETLK, F_WRLCK, 0, 1));
	T(lk(r, F_SETLK, 77, 0, 1));
	T(lk(r, F_SETLK, F_RDLCK, -1, 1));
	T(lockf(b, F_TEST, 1));
	return 0;
}
