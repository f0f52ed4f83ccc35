/* oracle: user
 * Directory descriptors opened and closed by the hundred: each stands for its own directory as long as any copy of it is open. */
#include "oracle.h"
#include <dirent.h>
#include <sys/file.h>

#define DIRS 8

static int names_in(int fd, char *which)
{
	char buf[1024];
	int n = 0;
	*which = '?';
	lseek(fd, 0, SEEK_SET);
	for (long got; (got = syscall(SYS_getdents64, fd, buf, sizeof buf)) > 0;)
		for (long at = 0; at < got; at += *(unsigned short *)(buf + at + 16), n++)
			if (buf[at + 19] != '.') *which = buf[at + 19];
	return n;
}
/* Whether fd stands for directory i, by all ways to ask. */
static int is(int fd, int i)
{
	char name[8], which;
	struct stat by_fd, by_name;
	snprintf(name, sizeof name, "d%d", i);
	if (names_in(fd, &which) != 3 || which != 'a' + i) return 0;
	if (fstat(fd, &by_fd) || stat(name, &by_name)) return 0;
	char file[2] = { 'a' + i, 0 };
	return by_fd.st_ino == by_name.st_ino && faccessat(fd, file, F_OK, 0) == 0;
}
static int open_dir(int i, int flags)
{
	char name[8];
	snprintf(name, sizeof name, "d%d", i);
	return open(name, O_RDONLY | O_DIRECTORY | flags);
}

int main(void)
{
	int wrong = 0;
	for (int i = 0; i < DIRS; i++) {
		char name[16];
		snprintf(name, sizeof name, "d%d", i);
		mkdir(name, 0755);
		snprintf(name, sizeof name, "d%d/%c", i, 'a' + i);
		close(open(name, O_WRONLY | O_CREAT, 0644));
	}
	puts("# one after the other");
	for (int i = 0; i < 400; i++) {
		int fd = open_dir(i % DIRS, 0);
		wrong += !is(fd, i % DIRS);
		close(fd);
	}
	printf("wrong %d\n", wrong);

	puts("# copies outlive the first");
	int kept[DIRS], path[DIRS];
	for (int i = 0; i < DIRS; i++) {
		int fd = open_dir(i, 0);
		kept[i] = dup(fd);
		close(fd);
		path[i] = open_dir(i, O_PATH);
	}
	for (int i = 0; i < 300; i++) {
		int a = open_dir(i % DIRS, 0), b = open_dir((i + 3) % DIRS, 0), p = open_dir((i + 5) % DIRS, O_PATH);
		wrong += !is(a, i % DIRS) || !is(b, (i + 3) % DIRS) || !is(kept[i % DIRS], i % DIRS);
		close(a);
		close(p);
		wrong += !is(b, (i + 3) % DIRS);
		char file[2] = { 'a' + i % DIRS, 0 };
		wrong += faccessat(path[i % DIRS], file, F_OK, 0) != 0;
		close(b);
	}
	printf("wrong %d\n", wrong);

	puts("# and in other processes");
	for (int i = 0; i < 10; i++) {
		int go[2], status, fd = open_dir(i % DIRS, 0);
		if (pipe(go)) return 1;
		pid_t child = fork();
		if (child == 0) {
			char c;
			close(go[1]);
			if (read(go[0], &c, 1)) _exit(2);
			_exit(!is(fd, i % DIRS) || !is(kept[i % DIRS], i % DIRS));
		}
		close(go[0]);
		close(fd);
		for (int k = 0; k < 40; k++) {
			int other = open_dir(k % DIRS, 0);
			wrong += !is(other, k % DIRS);
			close(other);
		}
		close(go[1]);
		waitpid(child, &status, 0);
		wrong += status;
	}
	printf("wrong %d\n", wrong);

	puts("# sent over a socket, with nobody holding a copy meanwhile");
	int sv[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, sv);
	for (int i = 0; i < 20; i++) {
		int fd = open_dir(i % DIRS, 0);
		char c = 0;
		union {
			char space[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} u;
		struct iovec iov = { &c, 1 };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u };
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		*h = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(h), &fd, sizeof fd);
		wrong += sendmsg(sv[0], &m, 0) != 1;
		close(fd);
		for (int k = 0; k < 60; k++) close(open_dir(k % DIRS, 0));
		m.msg_controllen = sizeof u;
		wrong += recvmsg(sv[1], &m, 0) != 1;
		memcpy(&fd, CMSG_DATA(h), sizeof fd);
		wrong += !is(fd, i % DIRS);
		close(fd);
	}
	printf("wrong %d\n", wrong);

	puts("# a position belongs to one opening");
	for (int i = 0; i < 100; i++) {
		int fd = open_dir(i % DIRS, 0);
		wrong += lseek(fd, 0, SEEK_CUR) != 0;
		char which;
		names_in(fd, &which);
		wrong += lseek(fd, 0, SEEK_CUR) == 0;
		wrong += flock(fd, LOCK_EX | LOCK_NB) != 0;
		close(fd);
	}
	printf("wrong %d\n", wrong);
	return wrong != 0;
}
