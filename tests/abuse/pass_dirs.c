/* Directory handles and path handles passed about, raced, used natively: none may reach beyond the sandbox's root. */
#include "abuse.h"
#include <pthread.h>

static const char *token, *secret;
static volatile int stop;

static int send_fd(int s, int fd)
{
	char c = 0, buf[CMSG_SPACE(4)] = { 0 };
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(4);
	memcpy(CMSG_DATA(h), &fd, 4);
	return sendmsg(s, &m, 0);
}
static int recv_fd(int s)
{
	char c, buf[CMSG_SPACE(16)] = { 0 };
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof buf };
	if (recvmsg(s, &m, 0) < 0) return -1;
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	int fd = -1;
	if (h) memcpy(&fd, CMSG_DATA(h), 4);
	return fd;
}
static void try(const char *how, int dir, const char *path)
{
	int fd = openat(dir, path, O_RDONLY);
	if (fd >= 0) {
		if (holds_token(fd, token)) printf("ESCAPED: %s: %s\n", how, path);
		close(fd);
	}
}
static void *race(void *arg)
{
	(void)arg;
	while (!stop) {
		/* "swap" is in turn a directory and a symbolic link to where the secret lies. */
		char d[4096];
		snprintf(d, sizeof d, "%s", secret);
		*strrchr(d, '/') = 0;
		if (renameat2(AT_FDCWD, "swap", AT_FDCWD, "link", RENAME_EXCHANGE)) {
			if (symlink(d, "link") && mkdir("swap", 0755)) sched_yield();
		}
	}
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 3) return 2;
	token = argv[1];
	secret = argv[2];
	char up[4096] = "", b[8192];
	for (int i = 0; i < 40; i++) strcat(up, "../");
	int s[2];
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s)) return 1;
	int root = open("/", O_RDONLY | O_DIRECTORY), path = open("/", O_PATH), here = open(".", O_RDONLY | O_DIRECTORY);
	int list[] = { root, path, here, AT_FDCWD };
	for (int i = 0; i < 4; i++) {
		try("plain", list[i], secret);
		snprintf(b, sizeof b, "%s%s", up, secret + 1);
		try("dots", list[i], b);
		snprintf(b, sizeof b, "/proc/self/root/%s%s", up, secret + 1);
		try("proc root", list[i], b);
		snprintf(b, sizeof b, "/proc/self/cwd/%s%s", up, secret + 1);
		try("proc cwd", list[i], b);
		snprintf(b, sizeof b, "/proc/self/fd/%d/%s%s", root, up, secret + 1);
		try("proc fd", list[i], b);
		snprintf(b, sizeof b, "/proc/1/root%s", secret);
		try("proc 1 root", list[i], b);
		snprintf(b, sizeof b, "/proc/1/cwd/%s%s", up, secret + 1);
		try("proc 1 cwd", list[i], b);
		for (int fd = 0; fd < 1100; fd += fd < 40 ? 1 : 53) {
			snprintf(b, sizeof b, "/proc/1/fd/%d/%s", fd, secret + 1);
			try("proc 1 fd", list[i], b);
		}
		/* Descriptors nobody told us about, at and above the limit. */
	}
	for (int fd = 3; fd < 1 << 16; fd++) {
		struct stat st;
		if (fd == root || fd == path || fd == here) continue;
		if (raw6(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0) < 0) continue;
		if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
			try("a hidden descriptor", fd, secret + 1);
			snprintf(b, sizeof b, "%s%s", up, secret + 1);
			try("a hidden descriptor and dots", fd, b);
		}
		if (fd > 2 && fd != s[0] && fd != s[1] && holds_token(fd, token)) printf("ESCAPED: descriptor %d is the secret\n", fd);
	}
	pid_t c = fork();
	if (c == 0) {
		int got = recv_fd(s[1]);
		try("passed", got, secret + 1);
		snprintf(b, sizeof b, "%s%s", up, secret + 1);
		try("passed and dots", got, b);
		if (fchdir(got) == 0) try("passed and entered", AT_FDCWD, b);
		_exit(0);
	}
	send_fd(s[0], root);
	reap_within(c, 2000);
	/* chroot, then out again with a handle kept: the sandbox's root is the end. */
	if (fork() == 0) {
		mkdir("jail", 0755);
		if (chroot("jail") == 0 && fchdir(root) == 0) {
			try("after chroot", AT_FDCWD, b);
			for (int i = 0; i < 50; i++)
				if (chdir("..")) break;
			if (chroot(".") == 0) try("chroot out", AT_FDCWD, secret);
		}
		_exit(0);
	}
	wait(NULL);
	/* Symlink races, for a second. */
	pthread_t t;
	char name[256];
	mkdir("swap", 0755);
	pthread_create(&t, NULL, race, NULL);
	snprintf(name, sizeof name, "swap/%s", strrchr(secret, '/') + 1);
	for (time_t end = time(NULL) + 2; time(NULL) < end;)
		for (int i = 0; i < 200; i++) {
			try("race", AT_FDCWD, name);
			/* With ".." after a link that may be a directory. */
			snprintf(b, sizeof b, "swap/../%s%s", up, secret + 1);
			try("race up", AT_FDCWD, b);
			int d = open("swap", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
			if (d >= 0) {
				try("race handle", d, strrchr(secret, '/') + 1);
				close(d);
			}
		}
	stop = 1;
	pthread_join(t, NULL);
	printf("passed about\n");
	return 0;
}
