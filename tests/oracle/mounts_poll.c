/* oracle: root
 * Who polls /proc/PID/mountinfo or mounts is told of changes, once for each open file, and reads the mounts as they are then. */
#include "oracle.h"
#include "mounts.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>

/* A child that mounts (or unmounts) in a moment. */
static pid_t later(int mounts)
{
	pid_t pid = fork();
	if (pid)
		return pid;
	nanosleep(&(struct timespec){ 0, 60000000 }, NULL);
	if (mounts)
		mount("later", "/a", "tmpfs", 0, NULL);
	else
		umount("/a");
	_exit(0);
}

static int count(int fd)
{
	char text[8192];
	lseek(fd, 0, SEEK_SET);
	ssize_t len = read(fd, text, sizeof text);
	int lines = 0;
	for (ssize_t i = 0; i < len; i++)
		lines += text[i] == '\n';
	return lines;
}

static int open_table(const char *name)
{
	return openat(proc_fd, name, O_RDONLY | O_CLOEXEC);
}

static void by_poll(const char *name)
{
	int fd = open_table(name), other = open_table(name);
	struct pollfd fds[2] = { { fd, POLLPRI, 0 }, { -1, POLLPRI, 0 } };
	int before = count(fd);
	printf("%s quiet %d\n", name, poll(fds, 2, 20));
	pid_t child = later(1);
	int ready = poll(fds, 2, 20000);
	printf("%s mounted %d %#x more %d\n", name, ready, fds[0].revents, count(fd) - before);
	waitpid(child, NULL, 0);
	printf("%s told once %d\n", name, poll(fds, 1, 50));
	/* The other open file has not been told: it is at once when it waits. */
	fds[0] = (struct pollfd){ other, 0, 0 };
	ready = poll(fds, 1, 20000);
	printf("%s other %d %#x more %d\n", name, ready, fds[0].revents, count(other) - before);
	child = later(0);
	fds[0] = (struct pollfd){ fd, POLLPRI, 0 };
	struct timespec limit = { 20, 0 };
	ready = ppoll(fds, 1, &limit, NULL);
	printf("%s unmounted %d %#x more %d\n", name, ready, fds[0].revents, count(fd) - before);
	waitpid(child, NULL, 0);
	child = later(1);
	sigset_t mask;
	sigemptyset(&mask);
	ready = ppoll(fds, 1, &limit, &mask);
	printf("%s masked %d %#x\n", name, ready, fds[0].revents);
	waitpid(child, NULL, 0);
	umount("/a");
	close(fd);
	close(other);
}

static void by_select(void)
{
	int fd = open_table("self/mountinfo");
	for (int round = 0; round < 2; round++) {
		pid_t child = later(1);
		fd_set set;
		FD_ZERO(&set);
		FD_SET(fd, &set);
		struct timeval limit = { 20, 0 };
		sigset_t mask;
		sigemptyset(&mask);
		struct timespec spec = { 20, 0 };
		int ready = round ? pselect(fd + 1, NULL, NULL, &set, &spec, &mask) : select(fd + 1, NULL, NULL, &set, &limit);
		printf("select %d %d\n", ready, FD_ISSET(fd, &set) != 0);
		waitpid(child, NULL, 0);
		umount("/a");
		/* Take note of the unmounting. */
		FD_SET(fd, &set);
		limit.tv_sec = 20;
		printf("select %d\n", select(fd + 1, NULL, NULL, &set, &limit));
	}
	close(fd);
}

static void by_epoll(unsigned events, const char *what)
{
	int fd = open_table("self/mountinfo"), epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = { .events = events, .data.u64 = 0x1122334455667788 }, got = { 0 };
	OK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
	OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	/* With EPOLLIN there is something to read, to begin with. */
	printf("%s at first %d\n", what, epoll_wait(epoll, &got, 1, 0));
	printf("%s quiet %d\n", what, epoll_wait(epoll, &got, 1, 20));
	for (int i = 1; i >= 0; i--) {
		pid_t child = later(i);
		int ready = epoll_wait(epoll, &got, 1, 20000);
		printf("%s told %d in %d pri %d data %d\n", what, ready, (got.events & EPOLLIN) != 0,
			(got.events & EPOLLPRI) != 0, got.data.u64 == event.data.u64);
		waitpid(child, NULL, 0);
		printf("%s once %d\n", what, epoll_wait(epoll, &got, 1, 20));
	}
	OK(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
	OK(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
	pid_t child = later(1);
	printf("%s deleted %d\n", what, epoll_wait(epoll, &got, 1, 150));
	waitpid(child, NULL, 0);
	umount("/a");
	OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	close(fd);
	child = later(1);
	if (events & EPOLLET && events & EPOLLIN)
		epoll_wait(epoll, &got, 1, 0);
	printf("%s closed %d\n", what, epoll_wait(epoll, &got, 1, 150));
	waitpid(child, NULL, 0);
	umount("/a");
	close(epoll);
	/* What cannot be polled at all. */
	fd = open("/f", O_RDONLY);
	epoll = epoll_create1(0);
	OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	close(fd);
	close(epoll);
}

int main(void)
{
	char dir[] = "/tmp/mounts_poll.XXXXXX";
	mkdtemp(dir);
	world(dir);
	by_poll("self/mountinfo");
	by_poll("self/mounts");
	by_select();
	by_epoll(EPOLLPRI, "pri");
	by_epoll(EPOLLPRI | EPOLLET, "pri et");
	by_epoll(EPOLLIN | EPOLLET, "in et");
	by_epoll(EPOLLIN | EPOLLPRI | EPOLLET, "in pri et");
	/* Another namespace's mounts are none of ours. */
	int fd = open_table("self/mountinfo");
	pid_t child = fork();
	if (!child) {
		unshare(CLONE_NEWNS);
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
		mount("other", "/b", "tmpfs", 0, NULL);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	struct pollfd one = { fd, POLLPRI, 0 };
	printf("another's %d\n", poll(&one, 1, 100));
	return 0;
}
